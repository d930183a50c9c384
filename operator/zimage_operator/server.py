"""/healthz, /readyz and /metrics on one port."""

from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .health import Health


async def serve(port: int, synced: asyncio.Event, health: Health) -> web.AppRunner:
    """Start the management server; the caller cleans it up.

    /healthz: the event loop turns, no worker hangs, no watch and no probe is dead; 503 with a line
    for each that is. /readyz: the caches are filled (of the standby too).
    """

    async def healthz(_: web.Request) -> web.Response:
        found = health.problems(asyncio.get_running_loop().time())
        return web.Response(status=503 if found else 200, text="\n".join(found or ["ok"]) + "\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if synced.is_set() else web.Response(status=503, text="not in sync yet\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
