"""Loopback ports for programs that must be told theirs before they start.

Never one that the kernel gives: between the question and the program's own bind, another test's
outgoing connection may get it. These lie below the range of outgoing connections, which
begins at 32768 (net.ipv4.ip_local_port_range), and below the NodePorts.
"""

from __future__ import annotations

import random
import socket

PORTS = range(15000, 30000)


def free_ports(count: int) -> list[int]:
    """Different ports that nobody on 127.0.0.1 has, in no order: two runs side by side hardly meet.

    Raises:
        RuntimeError: there are fewer.
    """
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
