"""zimage-worker fetch: a pinned revision becomes a folder that the worker loads.

The straight line: what is there → what the hub has → what is needed → room → each file
(download → check → bfloat16) → manifest and rename. Twice, or after a kill, it goes on.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

from .. import manifest
from ..manifest import Entry, Manifest, ManifestWrong
from .errors import ChecksumMismatch, Damaged, NotServable, TargetInUse
from .hub import Hub, Source, size
from .progress import Progress
from .selection import INDEX, RemoteFile, components, needed
from .staging import Staging, clear, disk, flushed
from .tensors import header_length, parse_header, read_header, save_bf16

log = logging.getLogger("zimage.fetch")

# Holds the whole header of every published shard: one request a file.
FIRST_BYTES = 256 * 1024


@dataclass(frozen=True)
class Fetched:
    """The end of a fetch; `downloaded_bytes` is 0 where everything was there."""

    manifest: Manifest
    downloaded_bytes: int


def fetch(source: Source, target: Path, progress: Progress, keep: Collection[str] | None = None) -> Fetched:
    """Make `target` hold the commit, and nothing half-done at any time.

    With `keep`, other fetched folders beside it are removed first, but for those named in it.

    Raises:
        FetchError: by its type; errors.py has the exit codes.
    """
    with disk(target):
        if keep is not None and (gone := clear(target, keep)):
            log.info("removed, because nobody reads it any more: %s", ", ".join(gone))
        staging = Staging(target, source.repo, source.revision)
        staging.ensure_movable()
        known, intact = existing(target, source, progress)
        if known and all(intact.values()):
            shutil.rmtree(staging.root, ignore_errors=True)
            return Fetched(known, 0)
        with staging.locked():
            progress.entered("listing")
            hub = Hub(source)
            files = hub.files()
            wanted = listed(hub, files, staging)
            staging.resume(wanted)
            if known:
                staging.adopt(known, intact)
            left = [file for file in wanted if file.path not in staging.done]
            planned(hub, left, staging, progress)
            progress.entered("downloading")
            for file in left:
                get(hub, file, staging, progress)
            progress.entered("publishing")
            return Fetched(staging.publish(), sum(file.size_bytes for file in left))


def existing(target: Path, source: Source, progress: Progress) -> tuple[Manifest | None, dict[str, bool]]:
    """What lies at the target already: its manifest, and which of its files are intact.

    Raises:
        TargetInUse: it is not ours to replace.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None, {}
    content = manifest.content_of(target) if target.is_dir() else None
    if content is None:
        raise TargetInUse(f"{target} holds something that fetch did not write; empty it or use another --to")
    try:
        known = manifest.parse(content)
    except ManifestWrong:
        # Ours, but of no use: everything is fetched anew.
        return None, {}
    if (known.repo, known.revision) != (source.repo, source.revision):
        raise TargetInUse(f"{target} holds {known.repo} at {known.revision}; use another --to, or remove it first")
    if more := strangers(target, known):
        raise TargetInUse(f"{target} holds {more[0]}, which is not in its manifest; remove it or use another --to")
    return known, checked(target, known, progress)


def checked(target: Path, known: Manifest, progress: Progress) -> dict[str, bool]:
    """Every byte of every file."""
    progress.entered("verifying")
    progress.sized(len(known.files), known.size_bytes)
    intact = {}
    for path, each in known.files.items():
        progress.started(path)
        intact[path] = manifest.matches(target, path, each, progress.moved)
        progress.finished(path)
    return intact


def strangers(target: Path, known: Manifest) -> list[str]:
    """Files that nobody fetched."""
    found = (path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir())
    return sorted(set(found) - {*known.files, manifest.NAME})


def verify(target: Path, progress: Progress) -> Manifest:
    """`fetch --verify`: read everything and say what differs.

    Raises:
        Damaged: with the files' names.
    """
    try:
        content = manifest.content_of(target)
        if content is None:
            raise Damaged(f"{target} has no {manifest.NAME}; it was not fetched, or not to its end")
        known = manifest.parse(content)
    except ManifestWrong as error:
        raise Damaged(f"{target}: {error}; fetch the model again") from error
    wrong = [path for path, good in checked(target, known, progress).items() if not good]
    if names := [*wrong, *strangers(target, known)]:
        raise Damaged(f"{target}: {', '.join(names)}: not what the manifest says; fetch the model again")
    return known


def listed(hub: Hub, files: list[RemoteFile], staging: Staging) -> list[RemoteFile]:
    """The files that the pipeline needs, after a look into its own index.

    Raises:
        NotServable: it is not a Z-Image pipeline in safetensors.
    """
    index = next((file for file in files if file.path == INDEX), None)
    if index is None:
        raise NotServable(f"{hub.source.repo} has no {INDEX}: it is no diffusers pipeline; choose another repository")
    index = hub.known(index)
    partial = staging.partial(index)
    hub.download(index, partial, lambda _count: None)
    check(partial, index)
    try:
        document = json.loads(partial.read_bytes())
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise NotServable(f"{INDEX} of {hub.source.repo} is no JSON object; choose another revision")
    return [hub.known(file) for file in needed(files, components(document))]


def planned(hub: Hub, left: Iterable[RemoteFile], staging: Staging, progress: Progress) -> None:
    """What is still to be loaded and written, from the headers of the weights; and whether it fits.

    Raises:
        NoSpace: it does not.
    """
    total = here = kept = largest = count = 0
    for file in left:
        count += 1
        have = size(staging.partial(file))
        saved, cast = saved_size(hub, file)
        here, kept = here + have, kept + saved
        # The original and its copy lie side by side, one file at a time.
        largest = max(largest, file.size_bytes if cast else 0)
        total += file.size_bytes - have + (saved if cast else 0)
    staging.ensure_room(max(0, kept + largest - here))
    progress.sized(count, total)


def saved_size(hub: Hub, file: RemoteFile) -> tuple[int, bool]:
    """A file's size in the end, and whether it is written anew for that."""
    if not file.is_weights:
        return file.size_bytes, False
    first = hub.first_bytes(file, FIRST_BYTES)
    length = header_length(first, file.path)
    if 8 + length > len(first):
        first = hub.first_bytes(file, 8 + length)
    header = parse_header(first[8 : 8 + length], file.path)
    return (file.size_bytes, False) if header.in_bf16 else (header.saved_size_bytes, True)


def get(hub: Hub, file: RemoteFile, staging: Staging, progress: Progress) -> None:
    """One file: download, check, save."""
    progress.started(file.path)
    partial, place = staging.partial(file), staging.place(file.path)
    hub.download(file, partial, progress.moved)
    digest = check(partial, file)
    if file.is_weights and not read_header(partial).in_bf16:
        digest = save_bf16(partial, place, progress.moved)
        partial.unlink()
    elif file.is_index:
        digest = save_index(partial, place)
        partial.unlink()
    else:
        flushed(partial)
        partial.rename(place)
    staging.finish(file.path, Entry(digest, place.stat().st_size, file.digest, file.size_bytes))
    progress.finished(file.path)


def check(partial: Path, file: RemoteFile) -> str:
    """Read what arrived from the disk, hold it against the hub's own digest, return its SHA-256.

    Raises:
        ChecksumMismatch: and the bytes are gone, so that the next try starts anew.
    """
    whole, git = sha256(), sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
    with partial.open("rb", buffering=0) as reading:
        while piece := reading.read(manifest.CHUNK_BYTES):
            whole.update(piece)
            if file.digest.startswith("git:"):
                git.update(piece)
    found = f"git:{git.hexdigest()}" if file.digest.startswith("git:") else whole.hexdigest()
    if found != file.digest:
        partial.unlink()
        raise ChecksumMismatch(f"{file.path} arrived with other bytes than the hub promised; try again, or another hub")
    return whole.hexdigest()


def save_index(partial: Path, place: Path) -> str:
    """The list of shards with the size that they have now.

    Raises:
        NotServable: it names a shard that is not there.
    """
    try:
        document: dict[str, Any] = json.loads(partial.read_bytes())
        shards = {str(name) for name in document["weight_map"].values()}
        headers = [read_header(place.parent / name) for name in sorted(shards) if "/" not in name]
        document["metadata"] = {**(document.get("metadata") or {}), "total_size": 0}
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError):
        raise NotServable(f"{place.name} names shards that are not there; choose another revision") from None
    document["metadata"]["total_size"] = sum(each.saved_bytes for header in headers for each in header.tensors)
    content = json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"
    place.write_bytes(content)
    flushed(place)
    return sha256(content).hexdigest()
