"""Bytes to a port and bytes back: what no HTTP client would send."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """One response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.body)["error"]
        return found


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS, (source, 0))


def read_answer(stream, head_only: bool = False) -> Answer | None:
    """The next response, None at the end of the connection."""
    line = stream.readline()
    while line.startswith(b"HTTP/1.1 1"):
        while stream.readline().strip():
            pass
        line = stream.readline()
    if not line:
        return None
    version, status = line.split(b" ", 2)[:2]
    assert version == b"HTTP/1.1", line
    headers: dict[str, str] = {}
    while (field := stream.readline()).strip():
        name, _, value = field.decode("latin-1").partition(":")
        assert name.lower() not in headers, f"{name} twice"
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        raise AssertionError("no answer of ours is chunked here")
    return Answer(int(status), headers, b"" if head_only else stream.read(int(headers.get("content-length", 0))))


def exchange(port: int, data: bytes, *, half_close: bool = False, last: str = "") -> list[Answer]:
    """Send everything, then read every answer until the one with the id `last`, or until no more come."""
    with connect(port) as raw:
        # The server may close in the middle of a bomb.
        with contextlib.suppress(OSError):
            raw.sendall(data)
        if half_close:
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_WR)
        answers: list[Answer] = []
        with raw.makefile("rb") as stream, contextlib.suppress(ConnectionError, TimeoutError):
            while (answer := read_answer(stream)) is not None:
                answers.append(answer)
                if answer.headers.get("x-request-id") == last:
                    break
                # An open connection says no more; a closing one is read to its end.
                raw.settimeout(PATIENCE_SECONDS if answer.headers.get("connection") == "close" else 0.3)
        return answers


def wait_closed(raw: socket.socket, seconds: float) -> bool:
    """Whether the server ends the connection within `seconds`; what it still says is thrown away."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        raw.settimeout(left)
        try:
            if not raw.recv(65536):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False
