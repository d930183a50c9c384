"""The hub: what a commit holds, and its bytes. The only file that knows huggingface_hub.

The library's client and addresses, but not its hf_hub_download: that one starts a broken-off file
from its first byte, waits for hours where a hub says so, and takes Xet where plain HTTP is all
that a mirror speaks (docs/decisions/0131).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import build_hf_headers, get_session

from .. import __version__
from .errors import (
    AuthRequired,
    ChecksumMismatch,
    FetchError,
    HubUnavailable,
    NotServable,
    RepoNotFound,
    RevisionNotFound,
)
from .selection import RemoteFile

log = logging.getLogger("zimage.fetch")
T = TypeVar("T")

# Without a byte for so long the connection is given up and the file goes on from where it is.
SILENCE_SECONDS = 30.0
# 2, 4, 8 … s between tries; a hub that says Retry-After is obeyed up to the second figure.
FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 300.0
DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


class NotNow(HubUnavailable):
    """The hub may answer later; `retry_after_seconds` is its own word."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds

    @property
    def reason(self) -> str:
        """Outside of this file it is the same as its parent."""
        return HubUnavailable.__name__


@dataclass(frozen=True)
class Source:
    """One commit of one repository at one hub; the token is never shown."""

    endpoint: str
    repo: str
    revision: str
    token: str | None
    retries: int


class Hub:
    """Asks for one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.host = urlsplit(source.endpoint).netloc
        self.headers = build_hf_headers(
            # False and not None: the library would look for a token of its own.
            token=source.token or False,
            library_name="zimage-worker",
            library_version=__version__,
            headers={"Accept-Encoding": "identity"},
        )

    def files(self) -> list[RemoteFile]:
        """All files of the commit, with sizes and digests.

        Raises:
            FetchError: there is no such commit, or the hub does not say.
        """
        info = self.patiently(lambda: self.info(self.source.revision))
        if info.sha != self.source.revision:
            raise RevisionNotFound(self.moving(info.sha))
        return [self.remote(sibling) for sibling in info.siblings or []]

    def info(self, revision: str) -> ModelInfo:
        """What the hub says about a revision, in one answer."""
        api = HfApi(self.source.endpoint, token=self.source.token or False)
        with self.translated():
            return api.model_info(self.source.repo, revision=revision, files_metadata=True, timeout=SILENCE_SECONDS)

    def moving(self, sha: str | None) -> str:
        """For somebody who wrote a branch or a shortened commit."""
        return f"--revision {self.source.revision} is no pinned commit; today it is {sha}: write --revision {sha}"

    def remote(self, sibling: RepoSibling) -> RemoteFile:
        """One file; hubs that list no digests tell them file by file, and those come later."""
        if sibling.lfs:
            return RemoteFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256)
        digest = f"git:{sibling.blob_id}" if sibling.blob_id else ""
        return RemoteFile(sibling.rfilename, sibling.size or 0, digest)

    def known(self, file: RemoteFile) -> RemoteFile:
        """The file with its digest, from the headers of its own address where the list has none.

        Raises:
            NotServable: the hub tells no digest at all.
        """
        if file.digest:
            return file
        found = self.patiently(lambda: self.head(file.path))
        if not DIGEST.fullmatch(found[0]):
            raise NotServable(f"{self.host} tells no checksum of {file.path}; use a hub that does")
        return RemoteFile(file.path, found[1], found[0] if len(found[0]) == 64 else f"git:{found[0]}")

    def head(self, path: str) -> tuple[str, int]:
        """Digest and size from a file's headers.

        Not the library's way: it takes the token along where a mirror redirects to huggingface.co.
        """
        with self.translated():
            address, asked = self.address(path), {"headers": self.headers, "timeout": SILENCE_SECONDS}
            answer = get_session().head(address, follow_redirects=False, **asked)
        if answer.is_error:
            raise self.refusal(answer, path)
        told = answer.headers
        length = told.get("X-Linked-Size") or ("" if answer.is_redirect else told.get("Content-Length", ""))
        if told.get("X-Repo-Commit", self.source.revision) != self.source.revision or not length.isdigit():
            raise NotServable(f"{self.host} serves {path} of another commit; use a hub that pins")
        return (told.get("X-Linked-Etag") or told.get("ETag", "")).removeprefix("W/").strip('"'), int(length)

    def address(self, path: str) -> str:
        """Where a file lies."""
        source = self.source
        return str(hf_hub_url(source.repo, path, revision=source.revision, endpoint=source.endpoint))

    def first_bytes(self, file: RemoteFile, count: int) -> bytes:
        """The beginning of a file; a hub that ignores ranges is hung up on, not read to its end."""

        def read() -> bytes:
            content = b""
            with self.stream(file.path, {"Range": f"bytes=0-{count - 1}"}) as response:
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) >= count:
                        break
            return content[:count]

        return self.patiently(read)

    def download(self, file: RemoteFile, partial: Path, told: Callable[[int], None]) -> None:
        """Fill `partial` to its full size, going on from what it has; `told` hears the bytes.

        Raises:
            FetchError: the hub fails for longer than the retries last.
            OSError: the disk does.
        """
        failures = 0
        while size(partial) < file.size_bytes or not partial.exists():
            before = size(partial)
            try:
                self.append(file, partial, told)
            except NotNow as error:
                failures = 1 if size(partial) > before else failures + 1
                self.wait(failures, error)

    def append(self, file: RemoteFile, partial: Path, told: Callable[[int], None]) -> None:
        """One connection's worth of a file."""
        offset = size(partial)
        with self.stream(file.path, {"Range": f"bytes={offset}-"} if offset else {}) as response:
            if offset and not continues(response, offset):
                told(-offset)
                offset = 0
            with partial.open("ab" if offset else "wb") as writing:
                for piece in response.iter_bytes():
                    offset += len(piece)
                    if offset > file.size_bytes:
                        raise ChecksumMismatch(f"{self.host} sends more of {file.path} than it promised; try again")
                    writing.write(piece)
                    told(len(piece))
        if offset < file.size_bytes:
            raise NotNow(f"{self.host} broke off in {file.path} at {offset} of {file.size_bytes} bytes; try again")

    @contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
        """A file's answer, headers read; the token stays with the hub's own host (the client sees to it)."""
        asked = {**self.headers, **headers}
        with (
            self.translated(),
            get_session().stream("GET", self.address(path), headers=asked, timeout=SILENCE_SECONDS) as response,
        ):
            if self.source.endpoint.startswith("https:") and response.url.scheme != "https":
                raise HubUnavailable(f"{self.host} sends {path} over plain HTTP; use a hub that does not")
            if response.is_error:
                raise self.refusal(response, path)
            yield response

    @contextmanager
    def translated(self) -> Iterator[None]:
        """The library's exceptions as ours. Addresses stay out: those of a CDN are signed."""
        try:
            yield
        except HfHubHTTPError as error:
            raise self.refusal(error.response, "") from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            how = "check --endpoint, DNS and that egress is allowed"
            raise NotNow(f"cannot reach {self.host}: {first_line(error)}; {how}") from None
        except httpx2.TransportError as error:
            raise NotNow(f"the connection to {self.host} broke off: {first_line(error)}; try again") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, TypeError, KeyError) as error:
            raise HubUnavailable(f"{self.host} does not speak the Hub's protocol ({type(error).__name__})") from None

    def refusal(self, response: httpx2.Response, path: str) -> FetchError:
        """What a status means, and what to do."""
        code, repo, status = response.headers.get("X-Error-Code", ""), self.source.repo, response.status_code
        if status == 401 and self.source.token:
            return AuthRequired(f"{self.host} refuses the token; renew it in HF_TOKEN or in the file HF_TOKEN_PATH")
        if status == 401:
            how = "check the name, or give a token by HF_TOKEN or the file HF_TOKEN_PATH"
            return AuthRequired(f"{repo} is private, gated or not there; {how}")
        if status == 403 and code == "GatedRepo":
            return AuthRequired(f"{repo} is gated; accept its terms at {self.source.endpoint}/{repo}, then try again")
        if status == 403:
            return AuthRequired(f"{self.host} does not let this token read {repo}; give it the right to")
        if status == 404 and path:
            return NotServable(f"{self.host} lists {path} but does not have it; use another hub")
        if status == 404 and code == "RevisionNotFound":
            return RevisionNotFound(f"{repo} has no revision {self.source.revision}; write one of its commits")
        if status == 404:
            return RepoNotFound(f"{self.host} has no {repo} at {self.source.revision}; check --repo and --endpoint")
        if status == 429:
            return NotNow(f"{self.host} wants fewer requests (429); try again later", retry_after_seconds(response))
        if status >= 500 or status == 408:
            return NotNow(f"{self.host} fails ({status}); try again later", retry_after_seconds(response))
        return HubUnavailable(f"{self.host} answers {status}; check --endpoint")

    def patiently(self, ask: Callable[[], T]) -> T:
        """Ask again while the hub cannot answer, as often as the source allows."""
        failures = 0
        while True:
            try:
                return ask()
            except NotNow as error:
                failures += 1
                self.wait(failures, error)

    def wait(self, failures: int, error: NotNow) -> None:
        """Sleep before the next try.

        Raises:
            HubUnavailable: there have been enough, or the hub wants hours.
        """
        seconds = error.retry_after_seconds
        if seconds is None:
            seconds = min(FIRST_WAIT_SECONDS * 2 ** (failures - 1), LONGEST_WAIT_SECONDS)
        if failures > self.source.retries or seconds > LONGEST_WAIT_SECONDS:
            raise error
        log.warning("%s; again in %.0f s", error, seconds)
        time.sleep(seconds)


def first_line(error: Exception) -> str:
    """Why, in one line."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def size(path: Path) -> int:
    """Bytes on the disk so far."""
    return path.stat().st_size if path.exists() else 0


def continues(response: httpx2.Response, offset: int) -> bool:
    """Whether the answer goes on where we are; a hub without ranges starts anew."""
    found = re.match(r"bytes ([0-9]+)-", response.headers.get("Content-Range", ""))
    return response.status_code == 206 and bool(found) and int(found[1]) == offset  # type: ignore[index]


def retry_after_seconds(response: httpx2.Response) -> float | None:
    """The header in seconds; its date form is rare and counts as absent."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 8 else None
