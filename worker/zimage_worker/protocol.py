"""HTTP/1.1 for strangers: h11 with deadlines, stricter about what proxies read differently.

uvicorn's own protocol waits for ever for a header's next byte. Why this one: docs/decisions/0101 and 0140.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
import time
from typing import Any, Literal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .addresses import bucket
from .connections import Connections
from .deadlines import Awaited, Deadlines, taken_bytes
from .errors import BadRequest, ClientTooSlow, HeaderTooLarge, TooManyConnections, UriTooLong, WorkerError
from .logs import AccessLog
from .metrics import Metrics
from .middleware import SECURITY_HEADERS
from .strict import HEADER_MAX_BYTES, HEADER_MAX_FIELDS, TARGET_MAX_BYTES, StrictConnection

# Unsent bytes that the kernel takes from us: a slow reader costs this much, not megabytes.
NOT_SENT_BYTES = 128 * 1024

Port = Literal["api", "management"]


class Edge:
    """What the connections of one port share."""

    def __init__(
        self, port: Port, most: int, metrics: Metrics, access_log: AccessLog, deadlines: Deadlines | None = None
    ) -> None:
        self.port = port
        self.metrics = metrics
        self.access_log = access_log
        self.deadlines = deadlines or Deadlines()
        self.connections: Connections[EdgeProtocol] = Connections(most)
        metrics.connections_open.labels(port).set_function(lambda: self.connections.open)

    def admit(self) -> bool:
        """Room for one more, if need be at the expense of the one who has let us wait for longest."""
        if not self.connections.full:
            return True
        victim = self.connections.victim()
        if victim is None:
            self.metrics.connections_refused.labels(self.port).inc()
            return False
        self.metrics.connections_evicted.labels(self.port).inc()
        victim.leave()
        return True

    def sweep(self, now: float) -> None:
        """Once a second: cut off whoever is too slow."""
        for connection in list(self.connections.addresses):
            connection.look(now)


class EdgeProtocol(H11Protocol):
    """One connection. What is awaited follows from what h11 has made of the bytes so far."""

    def __init__(self, edge: Edge, **uvicorn_s: Any) -> None:
        super().__init__(**uvicorn_s)
        self.conn = StrictConnection(h11.SERVER, HEADER_MAX_BYTES)
        self.edge = edge
        self.address = ""
        self.awaited: Awaited = ""
        self.since = 0.0
        # Bytes of the body that is awaited; bytes taken when the reader's window began, and at the last look.
        self.received_bytes = 0
        self.window_bytes = 0
        self.seen_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """The clock runs from the connection on, not from its first byte."""
        super().connection_made(transport)
        if self.client is None:
            # Reset before it was accepted: nobody reads, and no limit or log could say whose it was.
            transport.abort()
            return
        self.address = bucket(self.client[0])
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if option is not None:
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, option, NOT_SENT_BYTES)
        if self.edge.admit():
            self.wait_for("header")
        else:
            # No line in the log: a flood must not fill it too. It is counted.
            self.answer(TooManyConnections("All connections are busy; try again.", retry_after_seconds=1))
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Bytes move no deadline; a body's only by its rate."""
        if self.transport.is_closing():
            return
        self.received_bytes += len(data)
        super().data_received(data)
        self.note()

    def on_response_complete(self) -> None:
        """The next request is awaited, or what is left of this one."""
        super().on_response_complete()
        self.note()

    def eof_received(self) -> None:
        """Half a request and then the end: nobody else would write this down."""
        if self.awaited == "header" and self.conn.trailing_data[0]:
            self.trace(BadRequest.status, 0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited of the dead."""
        self.edge.connections.gone(self)
        super().connection_lost(exc)

    def now_awaited(self) -> Awaited:
        """Whose turn it is."""
        if self.conn.their_state is h11.IDLE:
            return "idle" if self.cycle and not self.conn.trailing_data[0] else "header"
        if self.conn.their_state is not h11.SEND_BODY:
            return ""
        return "body" if self.conn.our_state is h11.SEND_RESPONSE else "rest"

    def note(self) -> None:
        """Start the clock for something new; leave it alone while the same is awaited."""
        reading = self.awaited == "read" and self.transport.get_write_buffer_size()
        awaited = self.now_awaited()
        if not reading and awaited != self.awaited:
            self.wait_for(awaited)

    def wait_for(self, awaited: Awaited) -> None:
        """The clock, and our place in the line of those who can be sent away."""
        self.awaited, self.since, self.received_bytes = awaited, time.monotonic(), 0
        if not awaited:
            self.edge.connections.works(self, self.address)
        else:
            self.edge.connections.waits(self, self.address, self.since)

    def look(self, now: float) -> None:
        """The sweep's look: first whether the client reads, then whether it is in time."""
        if self.transport.get_write_buffer_size():
            self.watch_reader(now)
        elif self.awaited == "read":
            self.wait_for(self.now_awaited())
        elif self.awaited and now - self.since > self.edge.deadlines.seconds(self.awaited, self.received_bytes):
            self.too_slow()

    def watch_reader(self, now: float) -> None:
        """A window in which too little was taken is the last one."""
        taken, deadlines = taken_bytes(self.transport), self.edge.deadlines
        if self.awaited == "read" and now - self.since <= deadlines.read:
            if taken > self.seen_bytes:
                # Who reads goes to the end of the line of those who could be sent away.
                self.edge.connections.waits(self, self.address, now)
                self.seen_bytes = taken
            return
        if self.awaited == "read" and taken - self.window_bytes < deadlines.read * deadlines.read_rate:
            self.too_slow()
            return
        self.wait_for("read")
        self.window_bytes = self.seen_bytes = taken

    def too_slow(self) -> None:
        """Say so where anybody could still hear it."""
        self.edge.metrics.connections_cut.labels(self.edge.port, self.awaited).inc()
        began = self.awaited == "body" or (self.awaited == "header" and bool(self.conn.trailing_data[0]))
        if began and not self.transport.get_write_buffer_size():
            self.refuse(ClientTooSlow("The request did not arrive in time."))
        self.leave()

    def leave(self) -> None:
        """At once, without waiting for a reader; the bookkeeping does not wait for the event loop."""
        self.edge.connections.gone(self)
        self.awaited = ""
        self.transport.abort()

    def send_400_response(self, _msg: str) -> None:
        """Called by uvicorn where h11 gave up: refused in the shape of every other refusal."""
        refused: WorkerError = BadRequest("The request is not valid HTTP/1.1.", code="invalid_http")
        hint = getattr(sys.exception(), "error_status_hint", 400)
        if hint == HeaderTooLarge.status:
            refused = HeaderTooLarge(
                f"The header has more than {HEADER_MAX_BYTES} bytes or {HEADER_MAX_FIELDS} fields."
            )
        elif hint == UriTooLong.status:
            refused = UriTooLong(f"The URL has more than {TARGET_MAX_BYTES} bytes.")
        self.refuse(refused)

    def refuse(self, error: WorkerError) -> None:
        """Answer, leave a trace, and close; the app, where it waits for this request, is told that nobody is there."""
        sent = self.answer(error) if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE} else 0
        if self.cycle and not self.cycle.response_complete:
            # The middleware writes the line: it knows the method and the path.
            self.scope["state"]["refused"] = error.status
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            self.trace(error.status, sent)
        self.transport.close()

    def answer(self, error: WorkerError) -> int:
        """Past uvicorn, for it has no request to answer; the bytes of the body."""
        self.edge.metrics.http_refused.labels(self.edge.port, error.code).inc()
        body = json.dumps(error.body()).encode()
        headers = [
            *SECURITY_HEADERS,
            *((name.lower().encode(), value.encode()) for name, value in error.headers()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", secrets.token_hex(8).encode()),
            (b"connection", b"close"),
        ]
        start = h11.Response(status_code=error.status, headers=headers, reason=b"Refused")
        for event in (start, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        return len(body)

    def trace(self, status: int, sent_bytes: int) -> None:
        """A line for what never became a request. Nothing of its bytes: they may be anybody's secret."""
        seconds = time.monotonic() - self.since if self.since else 0.0
        peer = self.client[0] if self.client else ""
        self.edge.access_log.write(peer, "", "", status, sent_bytes, "", "", seconds)


def config(app: Any, edge: Edge) -> uvicorn.Config:
    """uvicorn with nothing of its own that a client could see."""

    class Connected(EdgeProtocol):
        """uvicorn makes one of these for each connection."""

        def __init__(self, **uvicorn_s: Any) -> None:
            super().__init__(edge, **uvicorn_s)

    return uvicorn.Config(
        app,
        http=Connected,
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # Longer than ours, so that there is only one clock.
        timeout_keep_alive=int(edge.deadlines.idle) + 60,
        timeout_graceful_shutdown=5,
        # An accepted batch is smaller than the table, so none of it is sent away by the rest of it.
        backlog=max(16, edge.connections.most // 2),
    )
