"""uvicorn with deadlines: its own HTTP/1.1 protocol waits for ever for a header's next byte.

Why not another server: docs/decisions/0101-uvicorn-with-deadlines.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Generator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import BadRequest
from .middleware import SECURITY_HEADERS, UPLOAD_PATH

# From the first byte (or the connection) to the end of the header. A client on a slow line needs one.
HEADER_SECONDS = 10.0
# 64 KiB, or what a refused client still pours in.
BODY_SECONDS = 20.0
# A picture of 24 MiB on a line of 1.6 Mbit/s; nothing of a stranger's is kept meanwhile.
UPLOAD_SECONDS = 120.0
# Nothing read of an answer for so long: the client is gone or never meant to.
WRITE_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 15
# Each costs a file descriptor and some 50 kB.
CONNECTIONS_MAX = 1000
HEADER_MAX_BYTES = 16 * 1024


class DeadlineProtocol(H11Protocol):
    """H11Protocol that cuts clients off who drip bytes; a deadline is never moved by a byte."""

    deadline: asyncio.TimerHandle | None = None
    awaited: str = ""
    write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The clock runs from the connection on, not from its first byte."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        self.expect("header", HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """What is awaited follows from what h11 has made of the bytes so far."""
        super().data_received(data)
        if self.transport.is_closing():
            self.expect("", 0)
        elif self.conn.their_state is h11.IDLE:
            self.expect("header", HEADER_SECONDS)
        elif self.conn.their_state is h11.SEND_BODY:
            self.expect("body", UPLOAD_SECONDS if self.scope["path"] == UPLOAD_PATH else BODY_SECONDS)
        else:
            self.expect("", 0)

    def expect(self, what: str, seconds: float) -> None:
        """Start the clock for something new; leave it alone while the same is awaited."""
        if what == self.awaited:
            return
        if self.deadline:
            self.deadline.cancel()
        self.awaited = what
        self.deadline = self.loop.call_later(seconds, self.transport.abort) if what else None

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self.write_deadline = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self.write_deadline:
            self.write_deadline.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited of the dead."""
        self.expect("", 0)
        if self.write_deadline:
            self.write_deadline.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Not HTTP at all: refused in the shape of every other refusal."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.close()
            return
        body = json.dumps(BadRequest("The request is not valid HTTP/1.1.", code="invalid_http").body()).encode()
        headers = [
            *SECURITY_HEADERS,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """A uvicorn that leaves the signals to __main__.py: there are two of them in the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Not here."""
        yield


def server(app: Any) -> Server:
    """A server for one of the two apps."""
    return Server(
        uvicorn.Config(
            app,
            http=DeadlineProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=HEADER_MAX_BYTES,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=5,
        )
    )


def listening(host: str, port: int) -> socket.socket:
    """A bound socket, before anything slow begins.

    Raises:
        OSError: the address is taken or is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio turns Nagle's algorithm off only where it sees TCP written
    # here, and with it on each answer on a connection that is kept waits 40 ms for the client's ACK.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if host == "::":
        # One socket for both families in dual-stack clusters.
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.bind((host, port))
    bound.setblocking(False)
    return bound
