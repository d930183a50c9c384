"""What the operator sets is what the worker reads: names, ports, paths, and values it accepts."""

from __future__ import annotations

import pytest

from support import smallest
from zimage_operator.children.configmap import settings as configured
from zimage_operator.children.deployment import REVISION_VARIABLE
from zimage_operator.spec import parse
from zimage_worker.settings import SettingsWrong
from zimage_worker.settings import parse as read

JWT = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"secretName": "keys"}}
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
