"""A proxy between the operator and the API server that knows what each request is about, and can do harm.

    with Proxy(cluster) as proxy:
        proxy.harm = plan      # asked about every request: what is to become of it
        operator.kubeconfig = proxy.kubeconfig(...)

Plain HTTP on loopback towards the operator, TLS with its own token towards the API server.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from cluster.control_plane import ControlPlane
from cluster.pki import write_kubeconfig
from cluster.ports import free_port
from support import Operator

PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/[^/]+(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<subresource>[^/]+))?)?$"
)
# What belongs to one hop only, or is made anew for the next.
HOP = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "content-encoding"}
# In the order of severity: with a stream, with a request that was never sent, with one that was.
FAULTS = ("drop-before", "drop-after", "truncate", "409", "429", "500", "503")
GONE = {"code": 410, "reason": "Expired", "message": "too old resource version", "status": "Failure", "kind": "Status"}


@dataclass(frozen=True)
class Request:
    """One request of the operator. `number`: which write of its namespace it is, from 1; 0: no write."""

    verb: str
    resource: str
    namespace: str
    name: str
    subresource: str
    watch: bool
    number: int


Harm = Callable[[Request], str]


@contextmanager
def operator_behind(operator: Operator, directory: Path) -> Iterator[tuple[Proxy, Operator]]:
    """Put another operator, without a Lease, behind a proxy and in place of `operator`, which leads again after it."""
    operator.stop_in_order()
    harmed = Operator(operator.cluster, directory, ZIMAGE_OPERATOR_LEADER_ELECTION="false")
    with Proxy(operator.cluster) as proxy:
        harmed.kubeconfig = proxy.kubeconfig("zimage-system", "zimage-operator")
        harmed.start()
        yield proxy, harmed
        assert harmed.process
        harmed.process.kill()
        harmed.process.wait()
    operator.start_and_lead()


class Proxy:
    """Runs in a thread of its own, with an event loop of its own."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.cluster, self.port = cluster, free_port()
        # Says what becomes of a request: "" it passes, one of FAULTS, "kill-before" or "kill-after".
        self.harm: Harm = lambda _: ""
        # Called for "kill-…", from the proxy's thread: ends the operator before it hears of anything.
        self.kill: Callable[[], None] = lambda: None
        self.writes: dict[str, int] = {}
        self.trace: list[tuple[Request, str]] = []
        self.streams: set[web.StreamResponse] = set()
        self.held = asyncio.Event()
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        assert self.ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join(30)

    def kubeconfig(self, namespace: str, account: str) -> Path:
        """Give a kubeconfig of a ServiceAccount that leads through here."""
        token = self.cluster.kubectl("-n", namespace, "create", "token", account, "--duration=24h").strip()
        path = self.cluster.directory / f"proxy-{self.port}.kubeconfig"
        write_kubeconfig(path, f"http://127.0.0.1:{self.port}", self.cluster.ca_crt, {"token": token})
        return path

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.serve())

    async def serve(self) -> None:
        self.stopped = asyncio.Event()
        self.held.set()
        context = ssl.create_default_context(cafile=str(self.cluster.ca_crt))
        connector = aiohttp.TCPConnector(limit=0, ssl=context)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self.session:
            runner = web.ServerRunner(web.Server(self.handle), handle_signals=False, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self.ready.set()
            await self.stopped.wait()
            await runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    # --- harm to the streams ----------------------------------------------------------

    def cut_watches(self) -> None:
        """Break every watch, in the midst of it."""
        self.loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for stream in list(self.streams):
            transport = stream._req.transport if stream._req else None
            if transport:
                transport.abort()

    def expire_watches(self) -> None:
        """Tell every watch that what it waits for is no longer known (410)."""
        asyncio.run_coroutine_threadsafe(self._expire(), self.loop).result(30)

    async def _expire(self) -> None:
        line = json.dumps({"type": "ERROR", "object": GONE}).encode() + b"\n"
        await asyncio.gather(*(stream.write(line) for stream in list(self.streams)), return_exceptions=True)

    def hold_watches(self, held: bool) -> None:
        """Let nothing of any watch through, or again."""
        self.loop.call_soon_threadsafe(self.held.clear if held else self.held.set)

    # --- requests ---------------------------------------------------------------------

    def describe(self, asked: web.BaseRequest) -> Request:
        """Say what a request is about, and count it if it is a write."""
        found = PATH.match(asked.path)
        parts = {key: value or "" for key, value in found.groupdict().items()} if found else {}
        namespace, resource = parts.get("namespace", ""), parts.get("resource", "")
        number = 0
        if asked.method != "GET" and resource not in ("events", "leases"):
            number = self.writes[namespace] = self.writes.get(namespace, 0) + 1
        query = urllib.parse.parse_qs(asked.query_string)
        name, subresource = parts.get("name", ""), parts.get("subresource", "")
        return Request(asked.method, resource, namespace, name, subresource, "watch" in query, number)

    async def handle(self, asked: web.BaseRequest) -> web.StreamResponse:
        request = self.describe(asked)
        harm = self.harm(request)
        self.trace.append((request, harm))
        if harm in ("drop-before", "kill-before"):
            return await self.drop(asked, harm)
        if harm.isdecimal():
            return refuse(int(harm))
        body = await asked.read()
        kept_headers = {key: value for key, value in asked.headers.items() if key.lower() not in HOP}
        headers = {**kept_headers, "Accept-Encoding": "identity"}
        url = self.cluster.server + asked.path_qs
        try:
            async with self.session.request(asked.method, url, data=body or None, headers=headers) as answer:
                if request.watch and answer.status == 200:
                    return await self.stream(asked, answer)
                content = await answer.read()
        except aiohttp.ClientError:
            # The API server is away: so is the proxy.
            return await self.drop(asked, "")
        if harm in ("drop-after", "kill-after"):
            return await self.drop(asked, harm)
        if harm == "truncate":
            return await truncated(asked, answer.status, content)
        return web.Response(status=answer.status, body=content, headers=kept(answer))

    async def drop(self, asked: web.BaseRequest, harm: str) -> web.StreamResponse:
        """End the connection without an answer, and the operator with it where that is the harm."""
        if harm.startswith("kill"):
            await asyncio.to_thread(self.kill)
        if asked.transport:
            asked.transport.abort()
        return web.Response()

    async def stream(self, asked: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass a watch on, event by event."""
        out = web.StreamResponse(status=200, headers=kept(answer))
        await out.prepare(asked)
        self.streams.add(out)
        try:
            async for chunk in answer.content.iter_any():
                await self.held.wait()
                await out.write(chunk)
        except (aiohttp.ClientError, ConnectionError):
            if asked.transport:
                asked.transport.abort()
        finally:
            self.streams.discard(out)
        return out


def kept(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {key: value for key, value in answer.headers.items() if key.lower() not in HOP}


def refuse(code: int) -> web.Response:
    """Answer in the API server's place, with its own kind of document."""
    reasons = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reasons[code], "message": "the proxy did it"}
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(body, status=code, headers=headers)


async def truncated(asked: web.BaseRequest, status: int, content: bytes) -> web.StreamResponse:
    """Promise all of an answer, send half of it, and hang up."""
    out = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
    out.content_length = len(content)
    await out.prepare(asked)
    await out.write(content[: len(content) // 2])
    if asked.transport:
        asked.transport.abort()
    return out
