#!/usr/bin/env python3
"""Make everything that a release consists of, and publish nothing.

    release.py VERSION [--out DIR] [--without-images]

Builds from a copy of the tree with VERSION written in, all times set to SOURCE_DATE_EPOCH (the last commit's if not
given): the same tree gives the same files. Prints each file's digest; SHA256SUMS holds them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import version
from packaging.markers import Marker

ROOT = Path(__file__).resolve().parent.parent
# What the parts of a release are made of.
COPIED = (
    *("pyproject.toml", "README.md", "LICENSE", ".dockerignore"),
    *("requirements", "operator", "worker", "crds", "charts"),
)
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
# In the order of application: the namespace stands in install.yaml.
INSTALL = ("crds/zimage.dev_zimageservices.yaml", "operator/install.yaml", "operator/admission-policy.yaml")
PARTS = ("operator", "worker")
# What both Dockerfiles build on; arm64 has the same packages.
THE_IMAGES = {
    **{"python_full_version": "3.11.2", "python_version": "3.11", "implementation_name": "cpython"},
    **{"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
}
# A tree without git has no commit to take the time from; zip files know nothing older.
FIRST_EPOCH = 315532800


def main() -> int:
    """Make the parts one after the other; the first that fails ends it."""
    arguments = parser().parse_args()
    out: Path = arguments.out or ROOT / "dist" / arguments.version
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    try:
        with tempfile.TemporaryDirectory(prefix="zimage-release-") as folder:
            release(Path(folder) / "tree", arguments.version, out, images=not arguments.without_images)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print((out / "SHA256SUMS").read_text(), end="")
    if (said := version.current(ROOT)) != arguments.version:
        print(f"The tree itself says {said}: `make version VERSION={arguments.version}` and a commit change that.")
    return 0


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    top = argparse.ArgumentParser(description="Make everything that a release consists of, and publish nothing.")
    top.add_argument("version", help="such as 1.2.3, or 1.2.3-rc.1")
    top.add_argument("--out", type=Path, metavar="DIR", help="where to (dist/VERSION); emptied first")
    top.add_argument("--without-images", action="store_true", help="the worker's takes minutes and 5 GB")
    return top


def release(tree: Path, wanted: str, out: Path, images: bool) -> None:
    """Fill a folder.

    Raises:
        ValueError: no version.
    """
    os.environ["SOURCE_DATE_EPOCH"] = epoch()
    copy(tree, wanted)
    wheel(tree, out)
    chart(tree, out)
    install(tree, out)
    bills(tree, out)
    if images:
        build_images(tree, wanted, out)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(out.iterdir())]
    (out / "SHA256SUMS").write_text("".join(sums))


def epoch() -> str:
    """Give the time that everything bears, in seconds since 1970."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or str(FIRST_EPOCH)


def copy(tree: Path, wanted: str) -> None:
    """Copy what is needed, with the version written in, and one time and one mode for all."""
    tree.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=LEFT_OUT)
        else:
            shutil.copy(ROOT / name, tree / name)
    version.write(tree, wanted)
    moment = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in (tree, *tree.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (moment, moment))


def wheel(tree: Path, out: Path) -> None:
    """Build the one distribution of both programs."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)


def chart(tree: Path, out: Path) -> None:
    """Pack the chart; helm takes the files' own times into the package."""
    from cluster.helm import helm

    command = [helm(), "package", tree / "charts/zimage-operator", "-d", out]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def install(tree: Path, out: Path) -> None:
    """Write what `kubectl apply --server-side -f` takes, for those without helm."""
    (out / "install.yaml").write_text("---\n".join((tree / name).read_text() for name in INSTALL))
    shutil.copy(tree / "operator/install-namespaced.yaml", out)
    shutil.copy(tree / INSTALL[0], out / "crd.yaml")


def bills(tree: Path, out: Path) -> None:
    """Write a bill of materials for each program: every package of its image, with its hashes (CycloneDX 1.6)."""
    program = cyclonedx()
    for part in PARTS:
        lock = tree / "requirements" / f"{part}.txt"
        lock.write_text(in_the_image(lock.read_text()))
        options = ["--pyproject", tree / "pyproject.toml", "--output-reproducible", "--sv", "1.6"]
        command = [program, "requirements", lock, *options, "-o", out / f"{part}.cdx.json"]
        # It warns that a lock does not tell who needs whom.
        subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})


def in_the_image(lock: str) -> str:
    """Leave out of a lock what is for other systems and other Pythons than the image's."""
    entries = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)
    markers = [re.match(r"\S+ ; (.*) \\\n", entry) for entry in entries]
    pairs = zip(entries, markers, strict=True)
    return "".join(entry for entry, marker in pairs if not marker or Marker(marker[1]).evaluate(THE_IMAGES))


def cyclonedx() -> Path:
    """Give the program, in an environment of its own: made at its first use, and again when the lock changes."""
    from cluster.binaries import CACHE, locked

    lock = ROOT / "requirements" / "release.txt"
    folder = CACHE / "tools" / f"cyclonedx-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    done = folder / ".done"
    with locked(CACHE / "lock" / "cyclonedx"):
        if not done.exists():
            uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
            subprocess.run([uv, "venv", "--quiet", "--clear", folder], check=True)
            options = ["--quiet", "--python", folder / "bin" / "python", "--require-hashes"]
            subprocess.run([uv, "pip", "install", *options, "-r", lock], check=True)
            done.touch()
    return folder / "bin" / "cyclonedx-py"


def build_images(tree: Path, wanted: str, out: Path) -> None:
    """Build both images with buildah and note their ids: the digest of an image's configuration and of its layers.

    They stay in buildah's storage, to be pushed. A registry knows another digest: it compresses the layers.
    """
    from cluster.images import released

    lines = [f"{released(tree / part / 'Dockerfile', tree, f'localhost/zimage-{part}:{wanted}')}\n" for part in PARTS]
    (out / "images.txt").write_text("".join(lines))


if __name__ == "__main__":
    sys.exit(main())
