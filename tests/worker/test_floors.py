"""Versions below which there are known holes: a lock file that goes back fails here."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

FLOORS = {
    "starlette": "1.3.1",  # CVE-2026-48710 (poisoned request.url by Host), 54282, 54283
    "h11": "0.16",  # CVE-2025-43859 (chunked bodies read differently by proxies)
    "pyjwt": "2.13",  # CVE-2026-48522 to 48526 (keys of another type, key sets from anywhere, b64)
    "diffusers": "0.38",  # CVE-2026-44513 (code from a model's folder in spite of trust_remote_code=False)
    "safetensors": "0.8",
    "pillow": "12.3",  # CVE-2026-40192 and its follow-ups
}


@pytest.mark.parametrize("name", FLOORS)
def test_nothing_is_older_than_its_last_hole(name: str) -> None:
    assert Version(version(name)) >= Version(FLOORS[name])
