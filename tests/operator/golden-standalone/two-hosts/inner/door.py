"""The one way to the worker: hands bytes on, both ways, and knows nothing of them.

door.py LISTEN:PORT WORKER:PORT

Docker publishes no port of a network that is `internal`, and the worker is on no other one.
"""

import asyncio
import sys

CHUNK_BYTES = 65536
CONNECT_SECONDS = 5


async def pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Hand on until one side ends; the other side then ends too, so that a client's leaving is seen at once."""
    try:
        while data := await source.read(CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()


async def serve(listen: str, worker: str) -> None:
    """Open the door and keep it open."""
    host, _, port = worker.rpartition(":")

    async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            connecting = asyncio.open_connection(host, int(port))
            inner_reader, inner_writer = await asyncio.wait_for(connecting, CONNECT_SECONDS)
        except (OSError, TimeoutError):
            # nginx makes a 503 of it.
            writer.close()
            return
        await asyncio.gather(pour(reader, inner_writer), pour(inner_reader, writer))

    address, _, own_port = listen.rpartition(":")
    server = await asyncio.start_server(enter, address.strip("[]"), int(own_port))
    async with server:
        await server.serve_forever()


asyncio.run(serve(*sys.argv[1:3]))
