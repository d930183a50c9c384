"""A folder of rendered files: written whole or not at all, and never over what somebody else has made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from .errors import ForeignFiles

# In the form of sha256sum: `sha256sum -c rendered.sha256` says what was changed since.
RECORD = "rendered.sha256"
LINE = re.compile(r"^(?P<digest>[0-9a-f]{64})  (?P<name>.+)$", re.MULTILINE)


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write `files` (by path below `folder`) and the record of them; the same files give the same bytes.

    Raises:
        ForeignFiles: a file is there that no earlier call has written, or that was changed since. Nothing is written.
        OSError: the folder cannot be written to.
    """
    known = recorded(folder)
    foreign = [name for name, text in files.items() if not may_write(folder / name, text, known.get(name))]
    if (folder / RECORD).exists() and not known:
        foreign.append(RECORD)
    if foreign:
        raise ForeignFiles([str(folder / name) for name in foreign])
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    lines = [f"{digest(text.encode())}  {name}\n" for name, text in sorted(files.items())]
    (folder / RECORD).write_text("".join(lines), encoding="utf-8")


def recorded(folder: Path) -> dict[str, str]:
    """Give the digests of what was written last time, by name; empty where there is no record of ours."""
    try:
        text = (folder / RECORD).read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    return {found["name"]: found["digest"] for found in LINE.finditer(text)}


def may_write(path: Path, text: str, known: str | None) -> bool:
    """Whether nothing of anybody else is lost: no file, our own unchanged one, or these very bytes."""
    if path.is_symlink():
        return False
    if not path.exists():
        return True
    return path.is_file() and digest(path.read_bytes()) in {known, digest(text.encode())}


def digest(content: bytes) -> str:
    """Give the SHA-256 of some bytes, as sha256sum writes it."""
    return hashlib.sha256(content).hexdigest()
