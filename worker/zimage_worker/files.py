"""The files that come from Secrets: read again when their content changes, missing or not."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from .auth import Htpasswd, Problem, parse_htpasswd
from .certificate import Certificate, parse_certificate
from .settings import Settings

log = logging.getLogger("zimage.files")

# The kubelet swaps a link, so times and inodes say little: the content is compared. Cheap enough.
POLL_SECONDS = 2.0
# A Secret cannot be larger.
FILE_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Found:
    """What the files held when they were read last."""

    htpasswd: Htpasswd
    htpasswd_sha256: str
    certificate: Certificate | None


def read_bytes(path: Path) -> bytes | None:
    """The content, or None where there is none to be had."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_MAX_BYTES)
    except OSError:
        return None


class SecretFiles:
    """Holds the newest reading; `read` replaces it. What cannot be read lets nobody in."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.contents: tuple[bytes | None, bytes | None] | None = None
        self.found = Found(Htpasswd({}), "", None)
        self.read()

    @property
    def loaded(self) -> bool:
        """Whether anybody can sign in, or nobody has to."""
        return self.settings.auth_mode == "None" or bool(self.found.htpasswd.users)

    def read(self) -> None:
        """Read both files; parse only what has changed."""
        basic, certificate = self.settings.basic_file, self.settings.certificate_file
        needed = basic if self.settings.auth_mode == "Basic" else None
        now = (read_bytes(needed) if needed else None, read_bytes(certificate) if certificate else None)
        if now == self.contents:
            return
        self.contents = now
        self.found = Found(
            self.htpasswd(needed, now[0]),
            hashlib.sha256(now[0]).hexdigest() if now[0] is not None else "",
            parse_certificate(now[1], str(certificate), self.settings.allowed_hosts[0]) if certificate else None,
        )
        self.tell()

    @staticmethod
    def htpasswd(path: Path | None, content: bytes | None) -> Htpasswd:
        """The users, or why there are none."""
        if path is None:
            return Htpasswd({})
        if content is None:
            message = f"no htpasswd at {path}: the Secret or its key auth is missing"
            return Htpasswd({}, (Problem("SecretMissing", message),))
        return parse_htpasswd(content)

    def tell(self) -> None:
        """One line a reading: how many users, and what is wrong."""
        for problem in self.found.htpasswd.problems:
            log.error("credentials: %s", problem.message)
        for _, message in self.found.certificate.problems if self.found.certificate else ():
            log.error("certificate: %s", message)
        log.info("credentials read: %d users", len(self.found.htpasswd.users))
