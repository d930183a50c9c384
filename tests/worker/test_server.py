from __future__ import annotations

import asyncio
import socket

from zimage_worker.server import listening


async def test_an_answer_waits_for_no_acknowledgement() -> None:
    """40 ms an answer, on every connection that is kept, until the protocol was named."""
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepting = writer.get_extra_info("socket")
        seen.set_result(accepting.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    bound = listening("127.0.0.1", 0)
    server = await asyncio.start_server(accepted, sock=bound)
    _, writer = await asyncio.open_connection(*bound.getsockname())
    assert await asyncio.wait_for(seen, 30)
    writer.close()
    server.close()
