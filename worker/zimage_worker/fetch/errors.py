"""Every way in which a fetch can fail, with its exit code: the one table (docs/fetch.md shows it).

FetchError             exit  again?  what happened
├─ WrongUse               2  no      the command line or the environment
├─ AuthRequired          10  no      401, 403: no token, a wrong one, or terms that were not accepted
├─ RevisionNotFound      11  no      404 for the revision
├─ RepoNotFound          12  no      404 for the repository
├─ NotServable           13  no      another pipeline, pickled weights, code of its own
├─ ChecksumMismatch      14  yes     the bytes are not those that the hub promised
├─ NoSpace               15  yes     the disk is full, or would be
├─ HubUnavailable        16  yes     429, 5xx, no connection, broken off
├─ TargetInUse           17  no      the folder holds something else, or another fetch is at work
├─ TargetNotWritable     18  no      permissions, a read-only disk, a mount point
└─ Damaged               19  yes     `--verify` found a difference
"""

from __future__ import annotations

from typing import ClassVar


class FetchError(Exception):
    """One line: what happened and what to do."""

    exit_code: ClassVar[int] = 1
    # Whether the same command may succeed later without anybody changing anything.
    again: ClassVar[bool] = False

    @property
    def reason(self) -> str:
        """In CamelCase, for the report."""
        return type(self).__name__


class WrongUse(FetchError):
    """The command line or the environment is wrong."""

    exit_code = 2


class AuthRequired(FetchError):
    """The hub wants a token, another token, or its terms accepted."""

    exit_code = 10


class RevisionNotFound(FetchError):
    """The repository has no such commit."""

    exit_code = 11


class RepoNotFound(FetchError):
    """The hub has no such repository."""

    exit_code = 12


class NotServable(FetchError):
    """There is something, but nothing that this worker serves."""

    exit_code = 13


class ChecksumMismatch(FetchError):
    """What arrived is not what the hub promised."""

    exit_code = 14
    again = True


class NoSpace(FetchError):
    """The disk is full, or would be before the end."""

    exit_code = 15
    again = True


class HubUnavailable(FetchError):
    """The hub does not answer, or not now."""

    exit_code = 16
    again = True


class TargetInUse(FetchError):
    """The folder is somebody else's."""

    exit_code = 17


class TargetNotWritable(FetchError):
    """The folder cannot be written or moved into place."""

    exit_code = 18


class Damaged(FetchError):
    """A fetched folder does not match its manifest."""

    exit_code = 19
    again = True
