"""The operator's own settings: one line per mistake."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from support import ROOT
from zimage_operator.bounds import Bounds
from zimage_operator.errors import BadSettings
from zimage_operator.settings import read


def test_defaults() -> None:
    inside, outside = read({}), read({"KUBECONFIG": "/some/where"})
    assert inside.probe_interval_seconds == 300
    assert outside.probe_interval_seconds == 0
    assert outside.namespace == "zimage-system"
    # What asks others is off until somebody says how, and of two replicas one acts.
    assert not inside.edge.enabled
    assert inside.leader_election
    assert inside.watch_namespaces == ()


def test_the_update_policy_is_careful_unless_told_otherwise() -> None:
    assert read({}).update_policy == "OnSpecChange"
    assert read({"ZIMAGE_OPERATOR_UPDATE_POLICY": "Auto"}).update_policy == "Auto"
    with pytest.raises(BadSettings, match="write one of OnSpecChange, Auto"):
        read({"ZIMAGE_OPERATOR_UPDATE_POLICY": "Never"})


def test_every_mistake_has_its_line() -> None:
    with pytest.raises(BadSettings) as error:
        read({"ZIMAGE_OPERATOR_PORT": "http", "ZIMAGE_OPERATOR_LOG_LEVEL": "loud", "ZIMAGE_OPERATOR_WORKER_IMAGE": "w"})
    assert len(error.value.problems) == 3
    assert "ZIMAGE_OPERATOR_PORT: 'http' will not do: write a port, 1 to 65535" in error.value.problems


BOUNDS = {
    "ALLOWED_IMAGE_PREFIXES": "registry.example.org/team, r.example.org",
    "ALLOW_JWKS_URL": "true",
    "ALLOWED_HOSTS": ".example.org, team-a=.a.example.com,team-b=b.example.com",
    "ALLOWED_CLIENT_NAMESPACES": "dmz,edge",
    "ALLOWED_CLIENT_NAMESPACE_LABELS": "name=dmz, example.org/zone=edge",
    "ALLOWED_MODELS": "persistentVolumeClaim:z-image-turbo,image:registry.example.org/*",
    "ALLOWED_PRIORITY_CLASSES": "gpu-serving",
}


def test_nothing_is_bounded_by_default_but_the_workers_way_out() -> None:
    assert read({}).bounds == Bounds()


def test_bounds_are_read() -> None:
    assert read({f"ZIMAGE_OPERATOR_{name}": text for name, text in BOUNDS.items()}).bounds == Bounds(
        image_prefixes=("registry.example.org/team", "r.example.org"),
        jwks_url=True,
        hosts=(("", ".example.org"), ("team-a", ".a.example.com"), ("team-b", "b.example.com")),
        client_namespaces=("dmz", "edge"),
        client_labels=(("name", "dmz"), ("example.org/zone", "edge")),
        models=("persistentVolumeClaim:z-image-turbo", "image:registry.example.org/*"),
        priority_classes=("gpu-serving",),
    )


@pytest.mark.parametrize(
    ("name", "text", "advice"),
    [
        ("ALLOWED_HOSTS", "*.example.org", "[NAMESPACE=].DOMAIN"),
        ("ALLOWED_HOSTS", "Team=.example.org", "[NAMESPACE=].DOMAIN"),
        ("ALLOWED_HOSTS", "=.example.org", "[NAMESPACE=].DOMAIN"),
        ("ALLOWED_HOSTS", "..example.org", "[NAMESPACE=].DOMAIN"),
        ("ALLOWED_CLIENT_NAMESPACES", "*", "names of namespaces"),
        ("ALLOWED_CLIENT_NAMESPACE_LABELS", "dmz", "LABEL=VALUE"),
        ("ALLOWED_CLIENT_NAMESPACE_LABELS", "name=*", "LABEL=VALUE"),
        ("ALLOWED_CLIENT_NAMESPACE_LABELS", "=dmz", "LABEL=VALUE"),
        ("ALLOWED_MODELS", "z-image-turbo", "persistentVolumeClaim:NAME"),
        ("ALLOWED_MODELS", "image:*/z", "a * at the end"),
        ("ALLOWED_PRIORITY_CLASSES", "gpu_serving", "write names"),
        ("REQUIRE_IMAGE_DIGEST", "yes", "write true or false"),
    ],
)
def test_a_bound_that_would_bound_nothing_is_a_mistake(name: str, text: str, advice: str) -> None:
    with pytest.raises(BadSettings) as error:
        read({f"ZIMAGE_OPERATOR_{name}": text})
    assert len(error.value.problems) == 1
    assert error.value.problems[0].startswith(f"ZIMAGE_OPERATOR_{name}: {text!r} will not do: ")
    assert advice in error.value.problems[0]


def test_who_asks_for_digests_gives_one() -> None:
    strict = {"ZIMAGE_OPERATOR_REQUIRE_IMAGE_DIGEST": "true"}
    with pytest.raises(BadSettings, match=r"ZIMAGE_OPERATOR_WORKER_IMAGE: .* write it by digest"):
        read(strict)
    pinned = {"ZIMAGE_OPERATOR_WORKER_IMAGE": "r.example.org/w@sha256:" + "a" * 64}
    assert read(strict | pinned).bounds.image_digest


def test_every_setting_is_documented_and_nothing_else() -> None:
    asked = re.findall(r'reader\.get\(\s*"([A-Z_]+)"', (ROOT / "operator/zimage_operator/settings.py").read_text())
    rows = (ROOT / "docs/reference/operator-settings.md").read_text().splitlines()
    told = [name for row in rows if row.startswith("| `") for name in re.findall("`([A-Z_]+)`", row.split("|")[1])]
    assert sorted(told) == sorted(asked)


def test_the_process_ends_with_2() -> None:
    environment = {"ZIMAGE_OPERATOR_PORT": "0", "PATH": ""}
    command = [sys.executable, "-m", "zimage_operator", "run"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.strip() == "ZIMAGE_OPERATOR_PORT: '0' will not do: write a port, 1 to 65535"
