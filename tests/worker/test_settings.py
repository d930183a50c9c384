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
