#!/usr/bin/env python3
"""The version: pyproject.toml has it; every other place that names it is written from there.

version.py [VERSION]

Prints what is written where, or writes VERSION everywhere (then `make generate`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# 1.2.3, or 1.2.3-rc.1 before it: SemVer for the chart, and pip reads it too.
FORM = r"\d+\.\d+\.\d+(?:-rc\.\d+)?"
SOURCE = "pyproject.toml"
IMAGE = r"(?:registry\.example\.org|ghcr\.io/zimage-dev)/zimage-(?:operator|worker):"
# Where it stands: a file, and what stands before it there.
PLACES = {
    SOURCE: r'^version = "',
    "operator/zimage_operator/__init__.py": r'^__version__ = "',
    "worker/zimage_worker/__init__.py": r'^__version__ = "',
    "charts/zimage-operator/Chart.yaml": r"^(?:version|appVersion): ",
    "charts/zimage-operator/values.yaml": IMAGE,
    "operator/install.yaml": IMAGE,
    "operator/install-namespaced.yaml": IMAGE,
    "operator/Dockerfile": IMAGE,
    "worker/Dockerfile": IMAGE,
    "README.md": IMAGE,
}


def main() -> int:
    """Print or write; exit code 2 for what is no version."""
    if not sys.argv[1:]:
        print(*(f"{found} {name}" for name, found in told(ROOT)), sep="\n")
        return 0
    try:
        write(ROOT, sys.argv[1])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def current(root: Path) -> str:
    """Give the version of a tree."""
    return next(found for name, found in told(root) if name == SOURCE)


def told(root: Path) -> Iterator[tuple[str, str]]:
    """Give every place with what it says."""
    for name, before in PLACES.items():
        for match in pattern(before).finditer((root / name).read_text()):
            yield name, match["version"]


def write(root: Path, version: str) -> None:
    """Write a version in all places.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(FORM, version):
        raise ValueError(f"{version!r} is no version: write one such as 1.2.3, or 1.2.3-rc.1")
    for name, before in PLACES.items():
        path = root / name
        path.write_text(pattern(before).sub(rf"\g<before>{version}", path.read_text()))


def pattern(before: str) -> re.Pattern[str]:
    return re.compile(f"(?P<before>{before})(?P<version>{FORM})", re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
