"""The folder beside the target where a fetch grows: lock, journal, partial files, and the last rename.

`.DIR.fetch/` holds `files/` (what will be DIR), `partial/` (named by digest, so that a piece
never continues another file) and `journal` (one line a finished file). All of it survives a kill.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import manifest
from ..manifest import Entry, Manifest
from .errors import FetchError, NoSpace, TargetInUse, TargetNotWritable
from .selection import RemoteFile

# Journal, manifest, directories: what no file's size tells. Generous.
MARGIN_BYTES = 64 * 1024 * 1024


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """The disk's errors as ours.

    Raises:
        NoSpace, TargetNotWritable: one line that says what to do.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, folder) from error


def disk_error(error: OSError, folder: Path) -> FetchError:
    """What an errno means here."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return NoSpace(f"the disk of {folder} is full; make room or use a larger volume, then run it again: it goes on")
    where = error.filename or folder
    if error.errno in {errno.EBUSY, errno.EXDEV}:
        return TargetNotWritable(f"{where} is a mount point, which cannot be renamed; use a folder inside of it")
    return TargetNotWritable(f"{where} cannot be written: {error.strerror or error}; check its owner and its mount")


class Staging:
    """The growing folder of one target."""

    def __init__(self, target: Path, repo: str, revision: str) -> None:
        self.target = target
        self.root = target.parent / f".{target.name}.fetch"
        self.repo, self.revision = repo, revision
        self.files, self.partials, self.journal = self.root / "files", self.root / "partial", self.root / "journal"
        self.done: dict[str, Entry] = {}

    def ensure_movable(self) -> None:
        """A folder that can be renamed into place in the end.

        Raises:
            TargetNotWritable: it is where a disk is mounted.
        """
        if self.target.is_mount():
            raise disk_error(OSError(errno.EBUSY, "", str(self.target)), self.target)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One fetch at a time; the kernel frees the lock of a process that was killed.

        Raises:
            TargetInUse: another one is at work.
        """
        for folder in (self.files, self.partials):
            folder.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TargetInUse(f"another fetch is writing {self.target}; wait for its end") from None
            yield

    def resume(self, wanted: list[RemoteFile]) -> None:
        """Keep what an earlier run finished of the same files; drop everything else."""
        source = {file.path: file.digest for file in wanted}
        for path, each in self.journaled().items():
            if source.get(path) == each.source_digest and manifest_size(self.files / path) == each.size_bytes:
                self.done[path] = each
        keep = {self.files / path for path in self.done} | {self.partial(file) for file in wanted}
        for place in [*self.files.rglob("*"), *self.partials.iterdir()]:
            if place.is_file() and place not in keep:
                place.unlink()
        self.write_journal()

    def journaled(self) -> dict[str, Entry]:
        """The journal's lines; a torn last one is no line."""
        found = {}
        try:
            for line in self.journal.read_text().splitlines():
                document = json.loads(line)
                found[manifest.inside(document["path"])] = manifest.entry(document)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return found

    def write_journal(self) -> None:
        """All finished files, on the disk before anybody relies on them."""
        lines = [json.dumps({"path": path, **each.document()}) + "\n" for path, each in self.done.items()]
        written(self.journal, "".join(lines).encode())

    def partial(self, file: RemoteFile) -> Path:
        """Where a file's bytes gather."""
        return self.partials / file.digest.replace(":", "-")

    def place(self, path: str) -> Path:
        """Where a finished file lies; its folder exists."""
        place = self.files / path
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def finish(self, path: str, entry: Entry) -> None:
        """Note a finished file; its bytes are on the disk already."""
        self.done[path] = entry
        self.write_journal()

    def adopt(self, old: Manifest, told: dict[str, bool]) -> None:
        """Take the intact files of a damaged target, without copying them."""
        for path, each in old.files.items():
            if told.get(path) and path not in self.done:
                place = self.place(path)
                place.unlink(missing_ok=True)
                os.link(self.target / path, place)
                self.done[path] = each
        self.write_journal()

    def publish(self) -> Manifest:
        """Write the manifest, set the modes, and move the folder into place in one step."""
        made = Manifest(self.repo, self.revision, self.done)
        written(self.files / manifest.NAME, made.text())
        # For a reader with another uid: nothing in a model is secret.
        for path in (self.files, *self.files.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        aside = self.root / "old"
        shutil.rmtree(aside, ignore_errors=True)
        if self.target.exists():
            self.target.rename(aside)
        self.files.rename(self.target)
        flushed(self.target.parent)
        shutil.rmtree(self.root)
        return made

    def ensure_room(self, more_bytes: int) -> None:
        """Before the first byte rather than after the last that fits.

        Raises:
            NoSpace: so much is not free.
        """
        free = shutil.disk_usage(self.root).free
        need = more_bytes + MARGIN_BYTES
        if free < need:
            raise NoSpace(
                f"{self.target.parent} has {free / 1e9:.2f} GB free and {need / 1e9:.2f} GB are needed; "
                "make room or use a larger volume"
            )


def clear(target: Path, keep: Collection[str]) -> list[str]:
    """Remove what other fetches left beside `target`, but for the folders named in `keep`; give what went.

    Only what a fetch has made: a folder with a manifest, or a growing one that no process holds. Nothing is
    lost for good by it: whatever is removed can be fetched again.
    """
    parent, gone = target.parent, []
    for found in sorted(parent.iterdir()) if parent.is_dir() else []:
        name = found.name.removeprefix(".").removesuffix(".fetch")
        growing = found.name == f".{name}.fetch"
        if name in {target.name, *keep} or found.is_symlink() or not found.is_dir():
            continue
        aside = parent / f".{name}.fetch"
        if held(aside) or not (growing or (found / manifest.NAME).is_file()):
            continue
        if not growing:
            # First out of its name: what a kill leaves of it is known for what it is.
            shutil.rmtree(aside, ignore_errors=True)
            found.rename(aside)
        shutil.rmtree(aside)
        gone.append(name)
    return gone


def held(root: Path) -> bool:
    """Whether a process is at work in a growing folder."""
    try:
        with (root / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def manifest_size(path: Path) -> int:
    """A file's size, or -1."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def written(path: Path, content: bytes) -> None:
    """A small file, whole or not at all, also after a power cut."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)


def flushed(path: Path) -> None:
    """fsync of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
