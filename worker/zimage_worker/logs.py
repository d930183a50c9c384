"""Logs: the application's as JSON lines on stderr, the access log in nginx's manner on stdout.

Neither ever holds a password, a token, a prompt or a query string.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

log = logging.getLogger("zimage.logs")

# Some 400 kB; a second of a flood, minutes of an honest load. A guess.
LINES_MAX = 2000
# One write is one system call, and of so many lines some 50 kB: a pipe's worth.
BATCH_MAX = 256
# How long the end waits for a reader.
CLOSE_SECONDS = 2.0

request_id: ContextVar[str] = ContextVar("request_id", default="")


class JsonLines(logging.Formatter):
    """One object a line, with the request's id where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure() -> None:
    """Everything to stderr; libraries only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("zimage").setLevel(logging.INFO)
    # It warns of each malformed request, without a word of whose it was: the access log has that line.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.captureWarnings(True)


def escaped(text: str) -> str:
    """nginx's escaping: nobody writes a second line into the log, or ends a quoted field."""
    return "".join(
        letter if " " <= letter <= "~" and letter not in '"\\' else "".join(f"\\x{byte:02X}" for byte in encoded)
        for letter in text
        for encoded in (letter.encode("utf-8", "surrogateescape"),)
    )


class AccessLog:
    """`$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent …`.

    Written by a thread of its own: a pipe that nobody empties must stop nobody's request. Lines for which
    there is no room are counted by `dropped`, and gone.
    """

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.lines: queue.Queue[str | None] = queue.Queue(LINES_MAX)
        self.dropped: Callable[[int], object] = lambda _count: None
        self.thread = threading.Thread(target=self.run, name="access-log", daemon=True)

    @classmethod
    def at(cls, place: str) -> AccessLog:
        """To stdout, or appended to a file.

        Raises:
            OSError: the file cannot be opened.
        """
        return cls(sys.stdout if place == "stdout" else open(place, "a", encoding="utf-8"))

    def write(
        self,
        address: str,
        user: str,
        request: str,
        status: int,
        sent_bytes: int,
        referer: str,
        agent: str,
        seconds: float,
    ) -> None:
        """One request; the query string must be gone from `request` and `referer` already."""
        now = time.strftime("%d/%b/%Y:%H:%M:%S %z")
        line = (
            f"{escaped(address) or '-'} - {escaped(user) or '-'} [{now}] "
            f'"{escaped(request) or "-"}" {status} {sent_bytes} '
            f'"{escaped(referer) or "-"}" "{escaped(agent) or "-"}" {seconds:.3f}\n'
        )
        try:
            self.lines.put_nowait(line)
        except queue.Full:
            self.dropped(1)

    def start(self) -> None:
        """Begin to write."""
        self.thread.start()

    def run(self) -> None:
        """The thread: what came in meanwhile is one write."""
        last = False
        while not last:
            found = [self.lines.get()]
            with contextlib.suppress(queue.Empty):
                while len(found) < BATCH_MAX:
                    found.append(self.lines.get_nowait())
            last = None in found
            self.put([line for line in found if line is not None])

    def put(self, lines: list[str]) -> None:
        """To the file or the pipe; a full disk costs lines, not the service."""
        try:
            self.out.write("".join(lines))
            self.out.flush()
        except OSError as error:
            self.dropped(len(lines))
            log.error("%d lines of the access log are lost: %s", len(lines), error.strerror)

    def close(self) -> None:
        """Write what is left, if somebody reads it: a stuck pipe keeps no process."""
        with contextlib.suppress(queue.Full):
            self.lines.put(None, timeout=CLOSE_SECONDS)
            self.thread.join(CLOSE_SECONDS)
