"""The page's files, read once: plain HTML, CSS and JavaScript, as they lie in page/."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .settings_auth import AuthSettings

FOLDER = Path(__file__).parent / "page"
# Nothing but these is served. Browsers insist on the right type (nosniff).
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Stands in index.html where the ways in are written.
WAYS = b"SIGN-IN-WAYS"


@dataclass(frozen=True)
class Asset:
    """One file. The tag changes with its bytes, so that a browser asks again but seldom loads again."""

    content: bytes
    media_type: str
    etag: str


def asset(content: bytes, suffix: str) -> Asset:
    """A file as it is sent."""
    return Asset(content, MEDIA_TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def page(ways: str, folder: Path = FOLDER) -> Mapping[str, Asset]:
    """Every file by its name; index.html says which ways in there are (see `sign_in_ways`)."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in MEDIA_TYPES}
    found["index.html"] = found["index.html"].replace(WAYS, ways.encode())
    return {name: asset(content, Path(name).suffix) for name, content in found.items()}


def sign_in_ways(auth: AuthSettings) -> str:
    """What the page's own form offers: `password` (POST /token), `browser` (its dialog), `token` (pasted).

    Nothing in the modes Basic and None: there the browser has the credentials before it has the page.
    """
    if not signs_in(auth):
        return ""
    ways = {"password": auth.token is not None, "browser": auth.basic_accepted and auth.token is None, "token": True}
    return " ".join(name for name, there in ways.items() if there)


def signs_in(auth: AuthSettings) -> bool:
    """Whether strangers get the page, to sign in on it."""
    return auth.mode in {"JWT", "Any"}
