"""The two listening servers: uvicorn with our protocol (protocol.py), without its signals."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Generator
from typing import Any

import uvicorn

from .protocol import Edge, config

# Each costs a file descriptor and some 50 kB.
CONNECTIONS_MAX = 1000
# A soft limit of 1,024 is a default of old; the worker opens some 2,000 sockets and a few hundred files.
FILES_WANTED = 8192
# torch, the model's shards, logs, pipes.
FILES_OWN = 128
SWEEP_SECONDS = 1.0


def connections_max() -> int:
    """Connections of one port, within what the process may open; raises the soft limit first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    # Two ports, and on each half as many again: a batch is accepted before its victims are closed.
    return max(16, min(CONNECTIONS_MAX, (soft - FILES_OWN) // 3)) if soft > 0 else CONNECTIONS_MAX


class Server(uvicorn.Server):
    """A uvicorn that leaves the signals to __main__.py: there are two of them in the process."""

    def __init__(self, app: Any, edge: Edge) -> None:
        super().__init__(config(app, edge))
        self.edge = edge
        self.swept = 0.0

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Not here."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls it ten times a second."""
        now = time.monotonic()
        if now - self.swept >= SWEEP_SECONDS:
            self.swept = now
            self.edge.sweep(now)
        return await super().on_tick(counter)


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
