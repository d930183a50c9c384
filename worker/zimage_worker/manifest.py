"""The manifest of a fetched model: what each file is, by SHA-256. Standard library only.

`zimage-manifest.json` lies beside model_index.json. The same revision gives the same manifest,
byte for byte, whichever mirror it came from: its own SHA-256 names the folder's content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

NAME = "zimage-manifest.json"
FORMAT = 1
# A manifest has some 20 lines; whatever is larger is none.
MAX_BYTES = 1024 * 1024
CHUNK_BYTES = 8 * 1024 * 1024


class ManifestWrong(Exception):
    """The folder is not what its manifest says; one line that says where."""


@dataclass(frozen=True)
class Entry:
    """One file: as it lies there, and as the hub has it (`git:` is a SHA-1 of git, else SHA-256)."""

    sha256: str
    size_bytes: int
    source_digest: str
    source_size_bytes: int

    def document(self) -> dict[str, Any]:
        """As the manifest and the journal write it."""
        return {
            "sha256": self.sha256,
            "sizeBytes": self.size_bytes,
            "source": {"digest": self.source_digest, "sizeBytes": self.source_size_bytes},
        }


@dataclass(frozen=True)
class Manifest:
    """A whole folder."""

    repo: str
    revision: str
    files: Mapping[str, Entry]

    def text(self) -> bytes:
        """Sorted and without a date, so that the same content has the same digest."""
        document = {
            "format": FORMAT,
            "repo": self.repo,
            "revision": self.revision,
            "dtype": "bfloat16",
            "files": {path: self.files[path].document() for path in sorted(self.files)},
        }
        return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(entry.size_bytes for entry in self.files.values())


def entry(document: Mapping[str, Any]) -> Entry:
    """One file's entry.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    source = document["source"]
    return Entry(str(document["sha256"]), int(document["sizeBytes"]), str(source["digest"]), int(source["sizeBytes"]))


def inside(path: str) -> str:
    """The path, if it stays inside of the folder.

    Raises:
        ValueError: it does not.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError(path)
    return path


def parse(content: bytes) -> Manifest:
    """A manifest from its bytes.

    Raises:
        ManifestWrong: it is none.
    """
    try:
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ManifestWrong(f"{NAME} has format {document['format']!r}; this version reads {FORMAT}")
        files = {inside(path): entry(each) for path, each in document["files"].items()}
        return Manifest(str(document["repo"]), str(document["revision"]), files)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ManifestWrong(f"{NAME} is damaged") from None


def content_of(folder: Path) -> bytes | None:
    """The manifest's bytes; None where there is none, as in a folder that somebody filled by hand.

    Raises:
        ManifestWrong: it cannot be read.
    """
    try:
        with (folder / NAME).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ManifestWrong(f"{folder / NAME} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise ManifestWrong(f"{NAME} is damaged")
    return content


def check_sizes(folder: Path) -> str:
    """Compare names and sizes only: milliseconds, at every start. The manifest's SHA-256, or "".

    Raises:
        ManifestWrong: a file is missing or has another size.
    """
    content = content_of(folder)
    if content is None:
        return ""
    for path, each in parse(content).files.items():
        compare_size(folder, path, each)
    return hashlib.sha256(content).hexdigest()


def compare_size(folder: Path, path: str, wanted: Entry) -> None:
    """One file's size.

    Raises:
        ManifestWrong: it is missing or has another size.
    """
    try:
        size = (folder / path).stat().st_size
    except OSError as error:
        raise ManifestWrong(f"{path} is missing or cannot be read ({error.strerror}); fetch the model again") from None
    if size != wanted.size_bytes:
        raise ManifestWrong(f"{path} has {size} bytes, its manifest says {wanted.size_bytes}; fetch the model again")


def matches(folder: Path, path: str, wanted: Entry, told: Callable[[int], None]) -> bool:
    """Whether a file has the right bytes; `told` hears how many were read."""
    try:
        return (folder / path).stat().st_size == wanted.size_bytes and sha256(folder / path, told) == wanted.sha256
    except OSError:
        return False


def sha256(path: Path, told: Callable[[int], None]) -> str:
    """A file's digest, read piece by piece.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            told(len(piece))
    return digest.hexdigest()
