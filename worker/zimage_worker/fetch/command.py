"""`zimage-worker fetch`: arguments and environment in, exit code and report out."""

from __future__ import annotations

import argparse
import logging
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from .. import logs
from ..manifest import NAME, sha256
from .errors import FetchError, WrongUse

log = logging.getLogger("zimage.fetch")

ENDPOINT = "https://huggingface.co"
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
# A token is some 40 characters; whatever is longer is another file.
TOKEN_MAX_BYTES = 4096
INTERRUPTED = 128 + signal.SIGTERM


class Interrupted(BaseException):
    """SIGTERM or SIGINT: end in order; what is on the disk is kept."""


def add(commands: Any) -> None:
    """The command's arguments. There is none for a token: command lines are read by everybody."""
    parser = commands.add_parser(
        "fetch",
        help="download a pinned revision into a folder that `serve` loads",
        description="The token of a private repository comes from HF_TOKEN or the file HF_TOKEN_PATH.",
    )
    parser.add_argument("--repo", help="for example Tongyi-MAI/Z-Image-Turbo")
    parser.add_argument("--revision", help="a commit of it, 40 hex digits")
    parser.add_argument("--to", type=Path, metavar="DIR", help="the folder to make; not a mount point")
    parser.add_argument("--clear", action="store_true", help="first remove other fetched folders beside DIR")
    parser.add_argument("--keep", action="append", default=[], metavar="NAME", help="but not this one; repeatable")
    parser.add_argument("--endpoint", metavar="URL", help=f"a Hub-compatible server (HF_ENDPOINT, else {ENDPOINT})")
    parser.add_argument("--retries", type=int, default=5, help="tries in a row without a new byte (default 5)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="keep one line of JSON there (docs/fetch.md)")
    parser.add_argument("--progress-port", type=int, metavar="PORT", help="serve GET /progress there")
    parser.add_argument("--verify", type=Path, metavar="DIR", help="only check every byte of a fetched folder")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The exit code; what happened is one line on stderr and the report's last word."""
    terminal = sys.stderr.isatty()
    logs.configure()
    if terminal:
        logging.getLogger("zimage").setLevel(logging.WARNING)
    # Before huggingface_hub is imported: the image runs offline but for this command.
    os.environ.update(HF_HUB_OFFLINE="0", TRANSFORMERS_OFFLINE="0", HF_HUB_DISABLE_TELEMETRY="1")
    from .progress import Progress

    progress = Progress(arguments.repo or "", arguments.revision or "", arguments.report, terminal)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    try:
        return work(arguments, progress)
    except FetchError as error:
        return ended(progress, str(error), error.exit_code, error.reason, error.again)
    except Interrupted:
        return ended(progress, "interrupted; run it again, it goes on", INTERRUPTED, "Interrupted", True)
    except Exception as error:
        log.critical("a fault of the program", exc_info=True)
        return ended(progress, f"a fault of the program: {type(error).__name__}", 1, "Fault", False)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """As an exception, wherever the work stands."""
    raise Interrupted


def work(arguments: argparse.Namespace, progress: Any) -> int:
    """Fetch or verify.

    Raises:
        FetchError: it failed.
    """
    from .fetching import fetch, verify
    from .progress import serve

    if arguments.verify:
        verify(arguments.verify, progress)
        return succeeded(progress, arguments.verify, f"{arguments.verify}: every byte is as the manifest says", 0)
    source = source_of(arguments, os.environ)
    if arguments.progress_port:
        try:
            serve(progress, arguments.progress_port)
        except OSError as error:
            raise WrongUse(f"--progress-port {arguments.progress_port}: {error.strerror}; use another") from error
    began = time.monotonic()
    made = fetch(source, arguments.to, progress, arguments.keep if arguments.clear else None)
    what = "fetched" if made.downloaded_bytes else "complete already, every byte checked:"
    return succeeded(
        progress,
        arguments.to,
        f"{what} {source.repo} at {source.revision} in {arguments.to}: "
        f"{made.manifest.size_bytes / 1e9:.3f} GB on the disk, "
        f"{made.downloaded_bytes / 1e9:.3f} GB downloaded, {peak_memory_bytes() / 1e6:.0f} MB of memory at most, "
        f"{time.monotonic() - began:.0f} s",
        made.downloaded_bytes,
    )


def source_of(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    """What is to be fetched, from arguments and environment.

    Raises:
        WrongUse: the first mistake.
    """
    from .hub import Source

    for name in ("repo", "revision", "to"):
        if not getattr(arguments, name):
            raise WrongUse(f"--{name} is needed; see zimage-worker fetch --help")
    if not REPO.fullmatch(arguments.repo):
        raise WrongUse(f"--repo {arguments.repo[:100]!r} is no repository; write OWNER/NAME")
    if not REVISION.fullmatch(arguments.revision):
        raise WrongUse(f"--revision {arguments.revision[:50]!r} is no commit; write its 40 hex digits")
    arguments.to = Path(os.path.abspath(arguments.to))
    endpoint = (arguments.endpoint or environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise WrongUse("the endpoint is no address; write https://HOST")
    if parts.username is not None or parts.password is not None:
        raise WrongUse("the endpoint holds credentials; give a token by HF_TOKEN or the file HF_TOKEN_PATH instead")
    given = token(environ)
    if given and parts.scheme == "http":
        log.warning("the token goes to %s over plain HTTP: whoever is in between can read it", parts.netloc)
    return Source(endpoint, arguments.repo, arguments.revision, given, max(0, arguments.retries))


def token(environ: Mapping[str, str]) -> str | None:
    """HF_TOKEN, else the file that HF_TOKEN_PATH names; nothing else is looked at.

    Raises:
        WrongUse: the file is named but cannot be read.
    """
    text, path = environ.get("HF_TOKEN", "").strip(), environ.get("HF_TOKEN_PATH", "")
    if not text and path:
        try:
            with open(path, "rb") as file:
                text = file.read(TOKEN_MAX_BYTES + 1).decode("ascii").strip()
        except OSError as error:
            raise WrongUse(f"HF_TOKEN_PATH: {path} cannot be read ({error.strerror}); mount the Secret") from error
        except UnicodeDecodeError:
            raise WrongUse(f"HF_TOKEN_PATH: {path} holds no token") from None
    if text and not (text.isascii() and text.isprintable() and " " not in text and len(text) <= TOKEN_MAX_BYTES):
        raise WrongUse("the token in HF_TOKEN or HF_TOKEN_PATH is no token: it has blanks or control characters")
    return text or None


def succeeded(progress: Any, folder: Path, message: str, downloaded_bytes: int) -> int:
    """Tell the end, with what the operator needs."""
    facts = {
        "manifestSha256": sha256(folder / NAME, lambda _count: None),
        "diskBytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "downloadedBytes": downloaded_bytes,
        "peakMemoryBytes": peak_memory_bytes(),
    }
    progress.end(outcome="Succeeded", reason="Fetched", message=message, exitCode=0, again=False, **facts)
    say(message, logging.INFO)
    return 0


def ended(progress: Any, message: str, exit_code: int, reason: str, again: bool) -> int:
    """Tell the failure."""
    progress.end(outcome="Failed", reason=reason, message=message[:1000], exitCode=exit_code, again=again)
    say(message, logging.ERROR)
    return exit_code


def say(message: str, level: int) -> None:
    """The one line: plain for a person, JSON for a collector of logs."""
    if sys.stderr.isatty():
        print(f"zimage-worker fetch: {message}", file=sys.stderr)
    else:
        log.log(level, "%s", message)


def peak_memory_bytes() -> int:
    """The most that this process held."""
    try:
        # getrusage's figure starts with what the parent held before exec; this one does not.
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"^VmHWM:\s+([0-9]+) kB", status, re.MULTILINE)[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
