"""What the operator sets is what the worker reads: names, ports, paths, and values it accepts."""

from __future__ import annotations

import re

import pytest

from support import ROOT, smallest
from zimage_operator.children.configmap import settings as configured
from zimage_operator.children.deployment import REVISION_VARIABLE
from zimage_operator.spec import parse
from zimage_worker.settings import SettingsWrong
from zimage_worker.settings import parse as read

VARIANTS = {
    "smallest": {},
    "inside only": {"ingress": None},
    "waived": {"auth": {"mode": "None", "waiverReason": "a demonstration inside the office network"}},
    "limits": {"generation": {"maxPixels": 65536, "maxSteps": 1, "maxImages": 1, "queueLength": 1}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_worker_starts_with_what_the_operator_sets(variant: str) -> None:
    values = configured(parse(smallest(namespace="team-a", **VARIANTS[variant])))
    known = read({**values, REVISION_VARIABLE: "abc"})
    assert known.template_revision == "abc"
    assert str(known.model_path) == values["ZIMAGE_MODEL_PATH"]
    assert known.limits.max_pixels == int(values["ZIMAGE_MAX_PIXELS"])
    assert list(known.allowed_hosts) == values["ZIMAGE_ALLOWED_HOSTS"].split(",")


def test_every_variable_that_is_set_is_read() -> None:
    """A name that the worker does not know would be a setting without effect."""
    values = configured(parse(smallest(namespace="team-a")))
    asked: set[str] = set()

    class Asking(dict[str, str]):
        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
            asked.add(name)
            return super().get(name, default)

    read(Asking(values))
    assert set(values) <= asked


def test_without_settings_the_worker_says_what_is_missing() -> None:
    with pytest.raises(SettingsWrong, match="ZIMAGE_MODEL_PATH"):
        read({})


def test_the_reference_names_every_setting_of_the_worker_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "worker-settings.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(ZIMAGE_[A-Z_]+)`", row.split("|")[1])}
    sources = (ROOT / "worker" / "zimage_worker").glob("settings*.py")
    read_by_name = {name for path in sources for name in re.findall(r'"(ZIMAGE_[A-Z_]+)"', path.read_text())}
    assert named == read_by_name
