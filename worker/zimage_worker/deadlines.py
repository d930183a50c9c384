"""How long a client may take, and how much it has taken."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Literal

# struct tcp_info of Linux: tcpi_bytes_acked, what the client's kernel has confirmed (linux/tcp.h).
TCP_INFO_BYTES, BYTES_ACKED_OFFSET = 192, 120

# What the client has to do next; "" when it is our turn.
Awaited = Literal["header", "idle", "body", "rest", "read", ""]


@dataclass(frozen=True)
class Deadlines:
    """How long a client may take, in seconds; rates in bytes a second."""

    # From the connection, or the first byte after an answer, to the end of the header. A slow line needs one.
    header: float = 10.0
    # Between two requests; nginx's default is 75, which only serves who holds connections.
    idle: float = 15.0
    # For a body, plus a second for each `body_rate` bytes that came: Apache's rule (mod_reqtimeout).
    body: float = 20.0
    body_rate: float = 4096.0
    # For what a client still pours in after its answer. No byte moves this one.
    rest: float = 20.0
    # In each such window a reader has to take `read_rate` a second; 500 is Apache's MinRate.
    read: float = 60.0
    read_rate: float = 500.0

    def seconds(self, awaited: Awaited, received_bytes: int) -> float:
        """For what is awaited, everything but `read`: that one is a window."""
        if awaited == "body":
            return self.body + received_bytes / self.body_rate
        return {"header": self.header, "idle": self.idle, "rest": self.rest}[awaited]


def taken_bytes(transport: asyncio.Transport) -> int:
    """Bytes that the client's machine has confirmed; elsewhere than on Linux, what left our buffer."""
    connected = transport.get_extra_info("socket")
    if sys.platform == "linux" and connected is not None:
        info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        if len(info) >= BYTES_ACKED_OFFSET + 8:
            return int(struct.unpack_from("Q", info, BYTES_ACKED_OFFSET)[0])
    return -transport.get_write_buffer_size()
