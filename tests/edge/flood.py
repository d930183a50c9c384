"""Many requests of one address as fast as this process can send them; prints how each kind was answered.

    python flood.py ADDRESS PORT HOST CA SOURCE SECONDS [AUTHORIZATION]

A process of its own, so that it takes no time from who measures. One line of JSON: {"401": 5012, "seconds": 4.0}.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import time
from collections import Counter

CONNECTIONS = 16
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


async def main(address: str, port: str, host: str, ca: str, source: str, seconds: str, authorization: str = "") -> None:
    """Every connection asks again as soon as it has its answer."""
    shown = f"Authorization: {authorization}\r\n" if authorization else ""
    request = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n{shown}\r\n".encode()
    context = ssl.create_default_context(cafile=ca)
    until, began, statuses = time.monotonic() + float(seconds), time.monotonic(), Counter[str]()

    async def one() -> None:
        while time.monotonic() < until:
            reader, writer = await asyncio.open_connection(
                address, int(port), ssl=context, server_hostname=host, local_addr=(source, 0)
            )
            try:
                while time.monotonic() < until:
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = LENGTH.search(head)
                    if length:
                        await reader.readexactly(int(length[1]))
                    statuses[head.split(b" ", 2)[1].decode()] += 1
                    if not length or b"connection: close" in head.lower():
                        break
            except (asyncio.IncompleteReadError, ConnectionError):
                statuses["cut"] += 1
            finally:
                writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    print(json.dumps({**statuses, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
