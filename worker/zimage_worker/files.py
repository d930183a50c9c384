"""The files that come from Secrets: read again when their content changes, missing or not."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from .auth import Htpasswd, parse_htpasswd
from .certificate import Certificate, parse_certificate
from .keys import KeySet, parse_jwks
from .own_tokens import parse_signing_keys
from .problems import Problem
from .settings import Settings

log = logging.getLogger("zimage.files")

# The kubelet swaps a link, so times and inodes say little: the content is compared. Cheap enough.
POLL_SECONDS = 2.0
# A Secret cannot be larger.
FILE_MAX_BYTES = 1024 * 1024
# Outside Kubernetes files are written in place: a half-written one must not lock everybody out.
SETTLE_SECONDS = 0.1
SETTLE_READS = 5

T = TypeVar("T")


def read_bytes(path: Path) -> bytes | None:
    """The content, or None where there is none to be had."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_MAX_BYTES)
    except OSError:
        return None


class Source(Generic[T]):
    """One content, wherever it comes from, and what was made of it. What cannot be read lets nobody in."""

    def __init__(self, path: Path | None, parse: Callable[[bytes | None], T], nothing: T) -> None:
        self.path = path
        self.parse = parse
        self.content: bytes | None = None
        self.value = nothing
        if path:
            self.take(read_bytes(path))

    @property
    def sha256(self) -> str:
        """Of the content, for /posture; empty where there is none."""
        return hashlib.sha256(self.content).hexdigest() if self.content is not None else ""

    def take(self, content: bytes | None) -> None:
        """Replace what there was; one assignment, so that no request meets a half."""
        self.value = self.parse(content)
        self.content = content

    def read(self) -> bool:
        """Whether the file has changed and stands still again. Slow where it has: not on the event loop."""
        if self.path is None or (content := read_bytes(self.path)) == self.content:
            return False
        for _ in range(SETTLE_READS):
            time.sleep(SETTLE_SECONDS)
            before, content = content, read_bytes(self.path)
            if content == before:
                break
        if content == self.content:
            return False
        self.take(content)
        return True


class SecretFiles:
    """Holds the newest reading of each source."""

    def __init__(self, settings: Settings) -> None:
        self.auth = auth = settings.auth
        self.reading = threading.Lock()
        self.basic = Source(auth.basic_file, htpasswd(auth.basic_file), Htpasswd({}))
        jwks = auth.jwt.jwks_file if auth.jwt else None
        signing = auth.token.signing_key_file if auth.token else None
        where = str(jwks or (auth.jwt.jwks_url if auth.jwt else "")).partition("?")[0]
        allowed = auth.jwt.algorithms if auth.jwt else ()
        self.jwks = Source(jwks, lambda content: parse_jwks(content, allowed, where), KeySet({}))
        self.signing = Source(signing, lambda content: parse_signing_keys(content, str(signing)), KeySet({}))
        chain, host = settings.certificate_file, settings.allowed_hosts[0]
        self.certificate: Source[Certificate | None] = Source(
            chain, lambda content: parse_certificate(content, str(chain), host), None
        )
        self.tell()

    @property
    def loaded(self) -> bool:
        """Whether anybody can sign in, or nobody has to."""
        users, own, issuers = self.basic.value.users, self.signing.value.keys, self.jwks.value.keys
        return self.auth.mode == "None" or bool((users and (self.auth.basic_accepted or own)) or issuers)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that keeps somebody out."""
        return self.basic.value.problems + self.jwks.value.problems + self.signing.value.problems

    @property
    def key_ids(self) -> list[str]:
        """The names of all keys that verify a token now."""
        return [*self.jwks.value.keys, *self.signing.value.keys]

    def read(self) -> None:
        """Read all files; parse only what has changed."""
        sources: Iterable[Source[Any]] = (self.basic, self.jwks, self.signing, self.certificate)
        with self.reading:
            changed = [source.read() for source in sources]
        if any(changed):
            self.tell()

    def tell(self) -> None:
        """One line a reading: how many users and keys, and what is wrong."""
        for problem in self.problems:
            log.error("credentials: %s", problem.message)
        for _, message in self.certificate.value.problems if self.certificate.value else ():
            log.error("certificate: %s", message)
        log.info("credentials read: %d users, %d keys", len(self.basic.value.users), len(self.key_ids))


def htpasswd(path: Path | None) -> Callable[[bytes | None], Htpasswd]:
    """Reads the users, or why there are none."""

    def parse(content: bytes | None) -> Htpasswd:
        if content is not None:
            return parse_htpasswd(content)
        message = f"no htpasswd at {path}: the Secret or its key auth is missing"
        return Htpasswd({}, (Problem("SecretMissing", message),))

    return parse
