"""How far a fetch is: a bar on a terminal, log lines off it, a JSON file and a JSON page for machines.

The file is one line, written in place: a container's termination message is a bind mount and
cannot be renamed over. docs/fetch.md defines the document.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import __version__

log = logging.getLogger("zimage.fetch")

# Off a terminal: often enough to see that it lives, rarely enough to read the log.
LOG_SECONDS = 15.0
REPORT_SECONDS = 1.0
# The kubelet cuts a termination message there; ours has some 600 bytes.
REPORT_MAX_BYTES = 4096


@dataclass
class Progress:
    """What is told; bytes count what is downloaded and what is saved again."""

    repo: str
    revision: str
    report: Path | None
    terminal: bool
    phase: str = "listing"
    file: str = ""
    files_done: int = 0
    files_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    ended: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)
    reported: float = 0.0
    bar: Any = None

    def entered(self, phase: str) -> None:
        """Another part of the work."""
        self.phase = phase
        log.info("%s", phase)
        self.write()

    def sized(self, files: int, total_bytes: int) -> None:
        """What there is to do, once it is known."""
        self.files_total, self.bytes_total, self.bytes_done = files, total_bytes, 0
        self.files_done, self.began = 0, time.monotonic()
        if self.terminal:
            self.close()
            self.bar = tqdm(total=total_bytes, unit="B", unit_scale=True, dynamic_ncols=True)

    def started(self, path: str) -> None:
        """The file that is worked on."""
        self.file = path
        if self.bar is not None:
            self.bar.set_description_str(path[-40:])

    def moved(self, count: int) -> None:
        """So many bytes more; fewer when a hub without ranges starts anew."""
        self.bytes_done += count
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(count)
        elif now - self.logged > LOG_SECONDS:
            self.logged = now
            log.info("%s", self.line())
        if now - self.reported > REPORT_SECONDS:
            self.write()

    def finished(self, path: str) -> None:
        """A file is done."""
        self.files_done += 1
        if self.bar is None:
            log.info("%s is done (%d of %d)", path, self.files_done, self.files_total)
        self.write()

    def end(self, **facts: Any) -> None:
        """The last word, for the report."""
        self.phase = "ended"
        self.ended = facts
        self.close()
        self.write()

    def close(self) -> None:
        """Leave the terminal's line as it is."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    @property
    def bytes_per_second(self) -> float:
        """Since the sizes were known."""
        return self.bytes_done / max(time.monotonic() - self.began, 1e-3)

    def line(self) -> str:
        """For the log."""
        share = 100 * self.bytes_done / self.bytes_total if self.bytes_total else 0
        return f"{self.file}: {share:.0f} % of {self.bytes_total / 1e9:.2f} GB, {self.bytes_per_second / 1e6:.1f} MB/s"

    def document(self) -> dict[str, Any]:
        """As docs/fetch.md defines it."""
        rate = self.bytes_per_second
        left = max(self.bytes_total - self.bytes_done, 0)
        return {
            "version": __version__,
            "repo": self.repo,
            "revision": self.revision,
            "phase": self.phase,
            "file": self.file,
            "filesDone": self.files_done,
            "filesTotal": self.files_total,
            "bytesDone": self.bytes_done,
            "bytesTotal": self.bytes_total,
            "bytesPerSecond": round(rate),
            "secondsLeft": round(left / rate) if rate > 1 and left else None,
            **self.ended,
        }

    def write(self) -> None:
        """The report file; a report that cannot be written does not stop the work."""
        self.reported = time.monotonic()
        if self.report is None:
            return
        line = json.dumps(self.document()).encode()[: REPORT_MAX_BYTES - 1] + b"\n"
        try:
            with self.report.open("r+b" if self.report.exists() else "wb") as file:
                # One write, then the cut: whoever reads meanwhile finds a whole first line.
                file.write(line)
                file.truncate()
        except OSError as error:
            log.warning("the report %s cannot be written: %s", self.report, error.strerror)
            self.report = None


def serve(progress: Progress, port: int) -> ThreadingHTTPServer:
    """`GET /progress` and `/health/live` on the management port, for as long as the process lives.

    Raises:
        OSError: the port is taken.
    """

    class Answer(BaseHTTPRequestHandler):
        """Two pages; silent, because probes would fill the log."""

        timeout = 10

        def do_GET(self) -> None:
            pages = {"/progress": progress.document(), "/health/live": {"status": "live"}}
            page = pages.get(self.path)
            body = json.dumps(page or {"error": {"message": "There is nothing here."}}).encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("", port), Answer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return server
