from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zimage_worker import __version__
from zimage_worker.settings import SettingsWrong, parse, quantity_bytes

GOOD = {
    "ZIMAGE_MODEL_PATH": "/models/z",
    "ZIMAGE_AUTH_MODE": "Basic",
    "ZIMAGE_BASIC_FILE": "/etc/zimage/basic/htpasswd",
    "ZIMAGE_ALLOWED_HOSTS": "Images.example.org, other.example.org",
}


def test_defaults_are_the_contract() -> None:
    made = parse(GOOD)
    assert (made.host, made.port, made.management_port, made.device) == ("0.0.0.0", 7860, 9090, "auto")
    assert (made.rate_limit_per_minute, made.rate_limit_burst, made.queue_length) == (60, 20, 16)
    assert (made.request_timeout_seconds, made.drain_seconds) == (300, 120)
    assert (made.limits.max_pixels, made.limits.max_steps, made.limits.max_images) == (1048576, 50, 4)
    assert made.allowed_hosts == ("images.example.org", "other.example.org")
    assert made.template_revision == made.model_revision == ""


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ZIMAGE_MODEL_PATH", "", "not set"),
        ("ZIMAGE_AUTH_MODE", "", "never guessed"),
        ("ZIMAGE_AUTH_MODE", "basic", "Basic, JWT, Any or None"),
        ("ZIMAGE_AUTH_MODE", "jwt", "Basic, JWT, Any or None"),
        ("ZIMAGE_BASIC_FILE", "", "mode Basic"),
        ("ZIMAGE_ALLOWED_HOSTS", " , ", "not set"),
        ("ZIMAGE_ALLOWED_HOSTS", "https://x.example.org", "host name"),
        ("ZIMAGE_PORT", "0", "1 to 65535"),
        ("ZIMAGE_PORT", "tcp://10.0.0.1:7860", "whole number"),
        ("ZIMAGE_PORT", "٣", "whole number"),
        ("ZIMAGE_MAX_STEPS", "1e3", "whole number"),
        ("ZIMAGE_MANAGEMENT_PORT", "7860", "ZIMAGE_PORT too"),
        ("ZIMAGE_TRUSTED_PROXIES", "10.0.0.1/8", "CIDRs"),
        ("ZIMAGE_GPU_MEMORY", "24 GB", "24Gi"),
        ("ZIMAGE_DEVICE", "gpu", "cuda"),
    ],
)
def test_a_mistake_names_the_variable_and_what_to_write(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsWrong) as caught:
        parse({**GOOD, name: value})
    (line,) = caught.value.mistakes
    assert line.startswith(f"{name}: ")
    assert says in line
    assert "; write " in line


JWT = {
    **GOOD,
    "ZIMAGE_AUTH_MODE": "Any",
    "ZIMAGE_JWT_ISSUER": "https://issuer.example.org/",
    "ZIMAGE_JWT_AUDIENCES": "images, other",
    "ZIMAGE_JWT_JWKS_FILE": "/etc/zimage/jwks.json",
    "ZIMAGE_TOKEN_SIGNING_KEY_FILE": "/etc/zimage/key",
}


def test_everything_about_tokens() -> None:
    made = parse({**JWT, "ZIMAGE_JWT_REQUIRED_CLAIMS": "email_verified=true, group"}).auth
    assert made.jwt
    assert made.token
    assert (made.mode, made.token.ttl_seconds, made.jwt.algorithms) == ("Any", 900, ("RS256", "ES256", "EdDSA"))
    assert made.jwt.policy.audiences == ("images", "other")
    assert made.jwt.policy.required == (("email_verified", "true"), ("group", None))
    assert made.jwt.policy.username_claim == "sub"


@pytest.mark.parametrize(
    ("changed", "name", "says"),
    [
        ({"ZIMAGE_JWT_ISSUER": ""}, "ZIMAGE_JWT_ISSUER", "mode Any"),
        ({"ZIMAGE_JWT_AUDIENCES": ","}, "ZIMAGE_JWT_AUDIENCES", "mode Any"),
        ({"ZIMAGE_JWT_JWKS_FILE": ""}, "ZIMAGE_JWT_JWKS_FILE", "or set ZIMAGE_JWT_JWKS_URL"),
        ({"ZIMAGE_JWT_JWKS_URL": "https://x/"}, "ZIMAGE_JWT_JWKS_URL", "only one of them"),
        ({"ZIMAGE_JWT_JWKS_URL": "http://issuer.example.org/"}, "ZIMAGE_JWT_JWKS_URL", "https://"),
        ({"ZIMAGE_JWT_JWKS_URL": "http://localhost/"}, "ZIMAGE_JWT_JWKS_URL", "https://"),
        ({"ZIMAGE_JWT_JWKS_URL": "https://user:pw@x/"}, "ZIMAGE_JWT_JWKS_URL", "https://"),
        ({"ZIMAGE_JWT_JWKS_URL": "file:///etc/passwd"}, "ZIMAGE_JWT_JWKS_URL", "https://"),
        ({"ZIMAGE_JWT_JWKS_URL": "https://x:0/"}, "ZIMAGE_JWT_JWKS_URL", "https://"),
        ({"ZIMAGE_JWT_JWKS_URL": "https://x:http/"}, "ZIMAGE_JWT_JWKS_URL", "https://"),
        ({"ZIMAGE_JWT_JWKS_URL": "https://x/a b"}, "ZIMAGE_JWT_JWKS_URL", "https://"),
        ({"ZIMAGE_JWT_ALGORITHMS": "none"}, "ZIMAGE_JWT_ALGORITHMS", "'none' is not accepted"),
        ({"ZIMAGE_JWT_ALGORITHMS": "rs256"}, "ZIMAGE_JWT_ALGORITHMS", "some of RS256"),
        ({"ZIMAGE_JWT_ALGORITHMS": "HS256,RS256"}, "ZIMAGE_JWT_ALGORITHMS", "never both"),
        ({"ZIMAGE_JWT_REQUIRED_CLAIMS": "=x"}, "ZIMAGE_JWT_REQUIRED_CLAIMS", "name or name=value"),
        ({"ZIMAGE_JWT_REQUIRED_CLAIMS": "x="}, "ZIMAGE_JWT_REQUIRED_CLAIMS", "name or name=value"),
        ({"ZIMAGE_TOKEN_TTL_SECONDS": "10"}, "ZIMAGE_TOKEN_TTL_SECONDS", "60 to 86400"),
        ({"ZIMAGE_AUTH_MODE": "JWT", "ZIMAGE_BASIC_FILE": ""}, "ZIMAGE_BASIC_FILE", "POST /token needs it"),
        ({"ZIMAGE_BASIC_FILE": ""}, "ZIMAGE_BASIC_FILE", "mode Any needs it"),
        ({"ZIMAGE_AUTH_MODE": "None"}, "ZIMAGE_TOKEN_SIGNING_KEY_FILE", "asks nobody"),
    ],
)
def test_a_mistake_about_tokens(changed: dict[str, str], name: str, says: str) -> None:
    if says == "https://":
        changed = {**changed, "ZIMAGE_JWT_JWKS_FILE": ""}
    with pytest.raises(SettingsWrong) as caught:
        parse({**JWT, **changed})
    lines = [line for line in caught.value.mistakes if line.startswith(f"{name}: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "pw@" not in lines[0]


def test_what_each_mode_can_do_without() -> None:
    bare = {name: value for name, value in JWT.items() if "JWT" not in name and "TOKEN" not in name}
    tokens = {"ZIMAGE_TOKEN_SIGNING_KEY_FILE": "/key"}
    assert parse({**bare, "ZIMAGE_AUTH_MODE": "JWT", **tokens}).auth.jwt is None
    assert parse({**bare, "ZIMAGE_AUTH_MODE": "Any", **tokens}).auth.bearer_accepted
    assert not parse({**bare, "ZIMAGE_AUTH_MODE": "Basic"}).auth.bearer_accepted
    only = parse({**JWT, "ZIMAGE_AUTH_MODE": "JWT", "ZIMAGE_TOKEN_SIGNING_KEY_FILE": "", "ZIMAGE_BASIC_FILE": ""}).auth
    assert (only.basic_accepted, only.bearer_accepted, only.basic_file) == (False, True, None)
    loopback = {**JWT, "ZIMAGE_JWT_JWKS_FILE": "", "ZIMAGE_JWT_JWKS_URL": "http://[::1]:8080/keys"}
    assert parse(loopback).auth.jwt.jwks_url == "http://[::1]:8080/keys"  # type: ignore[union-attr]


def test_none_needs_no_file() -> None:
    assert parse({**GOOD, "ZIMAGE_AUTH_MODE": "None", "ZIMAGE_BASIC_FILE": ""}).auth.basic_file is None


def test_quantities() -> None:
    assert quantity_bytes("24Gi") == 24 * 2**30
    assert quantity_bytes("1.5G") == 1_500_000_000


def test_the_process_ends_with_2_and_one_line_a_mistake() -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "worker")}
    command = [sys.executable, "-m", "zimage_worker", "serve"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    named = [line.split(":")[0] for line in done.stderr.splitlines()]
    assert sorted(named) == ["ZIMAGE_ALLOWED_HOSTS", "ZIMAGE_AUTH_MODE", "ZIMAGE_BASIC_FILE", "ZIMAGE_MODEL_PATH"]


def test_the_version_is_the_distribution_s() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__
