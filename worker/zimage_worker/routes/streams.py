"""Server-Sent Events: a running order told to its client as it goes, and ended when the client leaves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from .. import answers
from ..dependencies import ClientGone, Parts, while_connected
from ..errors import WorkerError
from ..images import ImageOrder, Moved, Picture, Progress, Step

log = logging.getLogger("zimage.stream")

# Traefik and nginx cut a silent answer after 60 s at the earliest.
KEEP_ALIVE_SECONDS = 15.0

Work = Callable[[Callable[[Progress], None]], Coroutine[Any, Any, object]]
Count = Callable[[BaseException | None], None]


class Running:
    """An order in the background and what it has told so far."""

    def __init__(self, work: Work) -> None:
        self.told: asyncio.Queue[Progress | None] = asyncio.Queue()
        self.accepted = asyncio.Event()
        self.task = asyncio.ensure_future(work(self.tell))
        self.task.add_done_callback(lambda _task: self.told.put_nowait(None))

    def tell(self, progress: Progress) -> None:
        """On the event loop, never waiting."""
        self.accepted.set()
        self.told.put_nowait(progress)

    async def admitted(self) -> None:
        """Until it has a place in the queue.

        Raises:
            WorkerError: it was refused, and the client gets a real status instead of an event.
        """
        waits = asyncio.ensure_future(self.accepted.wait())
        try:
            await asyncio.wait({self.task, waits}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waits.cancel()
        if self.task.done():
            self.task.result()

    def failure(self) -> BaseException | None:
        """Why it ended early; None after a success or a cancellation of ours."""
        return None if self.task.cancelled() else self.task.exception()

    async def end(self) -> None:
        """Cancel it, and wait: the turn ends when the thread does."""
        self.task.cancel()
        await asyncio.wait({self.task})


class EventStream(Response):
    """The answer to `stream: true`."""

    media_type = "text/event-stream"

    def __init__(
        self, running: Running, order: ImageOrder, tokens: int, parts: Parts, facts: dict[str, str], count: Count
    ) -> None:
        # X-Accel-Buffering: nginx would collect the events and send them at the end.
        super().__init__(headers={"X-Accel-Buffering": "no"}, media_type=self.media_type)
        del self.headers["content-length"]
        self.running = running
        self.order = order
        self.tokens = tokens
        self.parts = parts
        self.facts = facts
        self.count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell until the end, the error or the client's leaving; none of them is raised: the status is sent."""
        gone: ClientGone | None = None
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await while_connected(Request(scope, receive), self.telling(send))
        except ClientGone as left:
            gone = left
        finally:
            await self.running.end()
            self.count(gone or self.running.failure())

    async def telling(self, send: Send) -> None:
        """Event after event."""
        async for content in self.events():
            await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def events(self) -> AsyncIterator[bytes]:
        """Everything that the order tells, encoded here while the GPU goes on."""
        number = 0
        while (progress := await self.next()) is not None:
            if isinstance(progress, Picture):
                content = await self.parts.encoder.encode(progress, self.order, self.facts)
                used = answers.usage(self.order, 1, self.tokens if number == 0 else None)
                yield answers.completed(self.order, number, progress, content, int(time.time()), used)
                number += 1
            elif isinstance(progress, Step) and progress.preview:
                content = await self.parts.encoder.preview(progress.preview, self.order)
                yield answers.partial(self.order, progress, content, int(time.time()))
            if self.order.progress and isinstance(progress, Moved):
                yield answers.queued(progress)
            if self.order.progress and isinstance(progress, Step):
                yield answers.progress(progress)
            if isinstance(progress, bytes):
                yield progress
        if error := self.running.failure():
            yield answers.failed(told_to_client(error))

    async def next(self) -> Progress | bytes | None:
        """What comes next, or a sign of life for the proxies between."""
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                return await self.running.told.get()
        except TimeoutError:
            return answers.KEEP_ALIVE


def told_to_client(error: BaseException) -> WorkerError:
    """An error that nobody expected is logged and not shown."""
    if isinstance(error, WorkerError):
        return error
    log.error("a stream failed unexpectedly", exc_info=error)
    return WorkerError("The worker failed; see its log.")


async def admitted(request: Request, running: Running) -> None:
    """Until the order has a place; refused or left alone, nothing of it stays behind.

    Raises:
        WorkerError: refused.
        ClientGone: nobody waits any more.
    """
    try:
        await while_connected(request, running.admitted())
    except (WorkerError, ClientGone, asyncio.CancelledError):
        await running.end()
        raise
