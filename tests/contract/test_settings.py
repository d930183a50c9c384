"""What the operator sets is what the worker reads: names, ports, paths, and values it accepts."""

from __future__ import annotations

import re
from typing import get_args

import bcrypt
import pytest

from support import ROOT, smallest
from zimage_operator.children.configmap import settings as configured
from zimage_operator.children.deployment import REVISION_VARIABLE
from zimage_operator.children.pod import pod
from zimage_operator.credentials import BCRYPT_ROUNDS
from zimage_operator.errors import InvalidSpec
from zimage_operator.manifest import Environment
from zimage_operator.memory_plan import LONGEST_PROMPT_TOKENS
from zimage_operator.names import GENERATED_USER
from zimage_operator.quantities import quantity
from zimage_operator.spec import Algorithm, parse
from zimage_worker.auth import parse_htpasswd
from zimage_worker.engines.prompts import TOKENS_MAX
from zimage_worker.keys import ALGORITHMS
from zimage_worker.settings import SettingsWrong
from zimage_worker.settings import parse as read

JWT = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"secretName": "keys"}}
TOKEN = {"enabled": True, "signingKeySecretName": "signing"}
VARIANTS = {
    "smallest": {},
    "inside only": {"ingress": None},
    "waived": {"auth": {"mode": "None", "waiverReason": "a demonstration inside the office network"}},
    "generated": {"auth": {"basic": {"generate": True}}},
    "jwt": {
        "auth": {"jwt": {**JWT, "algorithms": ["RS256", "ES256"], "requiredClaims": ["group=a", "email"]}},
    },
    "keys by address": {"auth": {"jwt": {**JWT, "jwks": {"url": "https://login.example.org:8443/keys"}}}},
    "any": {"auth": {"basic": {"secretName": "users"}, "jwt": JWT}},
    "token": {"auth": {"basic": {"secretName": "users"}, "token": TOKEN}},
    "passwords at /token alone": {"auth": {"mode": "JWT", "basic": {"secretName": "users"}, "token": TOKEN}},
    "everything": {"auth": {"basic": {"generate": True}, "jwt": JWT, "token": {**TOKEN, "ttlSeconds": 60}}},
    "a GPU's memory": {"gpu": {"memory": "23.5Gi"}},
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_worker_lets_in_whom_the_resource_names(variant: str) -> None:
    service = parse(smallest(namespace="team-a", **VARIANTS[variant]))
    known = read(configured(service)).auth
    assert known.mode == service.auth.in_force
    assert bool(known.basic_file) == bool(service.auth.basic)
    assert bool(known.token) == service.auth.tokens
    if service.auth.jwt:
        jwt = service.auth.jwt
        assert known.jwt
        assert (known.jwt.policy.issuer, known.jwt.policy.audiences) == (jwt.issuer, jwt.audiences)
        assert known.jwt.policy.username_claim == jwt.username_claim
        assert len(known.jwt.policy.required) == len(jwt.required_claims)
        assert known.jwt.jwks_url == (jwt.jwks.url or "")
        assert set(jwt.algorithms) <= set(known.jwt.algorithms)


def test_the_algorithms_that_a_resource_may_name_are_those_that_the_worker_takes() -> None:
    assert set(get_args(Algorithm)) == set(ALGORITHMS)


@pytest.mark.parametrize("memory", ["24Gi", "23.5Gi", "24G", "25769803776", "24576Mi", "25e9"])
def test_an_amount_of_memory_means_the_same_to_both(memory: str) -> None:
    try:
        values = configured(parse(smallest(gpu={"memory": memory})))
    except InvalidSpec:
        assert memory == "25e9"
        return
    assert read(values).gpu_memory_bytes == int(quantity(memory))


def test_the_longest_prompt_is_planned_for() -> None:
    assert LONGEST_PROMPT_TOKENS == TOKENS_MAX


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_file_that_is_named_is_mounted(variant: str) -> None:
    service = parse(smallest(namespace="team-a", **VARIANTS[variant]))
    body = pod(service, Environment("registry.example.org/worker:1", "zimage-system"))
    folders = {item["name"]: item["mountPath"] for item in body["containers"][0]["volumeMounts"]}
    files = {
        f"{folders[volume['name']]}/{item['path']}"
        for volume in body["volumes"]
        for item in (volume.get("secret") or volume.get("configMap") or {}).get("items", ())
    }
    assert {value for name, value in configured(service).items() if name.endswith("_FILE")} == files


def test_the_password_that_the_operator_makes_up_is_one_that_the_worker_takes() -> None:
    """As credentials.py writes the line; the whole way is in tests/demo."""
    line = f"{GENERATED_USER}:{bcrypt.hashpw(b'secret', bcrypt.gensalt(BCRYPT_ROUNDS)).decode()}\n"
    found = parse_htpasswd(line.encode())
    assert list(found.users) == [GENERATED_USER]
    assert not found.problems


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variable_that_is_set_is_read(variant: str) -> None:
    """A name that the worker does not know would be a setting without effect."""
    values = configured(parse(smallest(namespace="team-a", **VARIANTS[variant])))
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


def test_the_reference_names_every_setting_of_the_operator_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "operator-settings.md").read_text()
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    source = (ROOT / "operator" / "zimage_operator" / "settings.py").read_text()
    assert {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)} == set(
        re.findall(r'reader\.get\(\s*"([A-Z_]+)"', source)
    )
