"""Streams → cache → queue. The only file that knows kopf; it holds no rules.

kopf brings what is hard about streams: lists in pages, watches that are taken up again, what is
no longer known (410), silence, log-in, CRDs that come later. What it does with each event after
that (a task and a memory for each object, handlers, patches) cost a quarter of the operator's CPU
time and is passed by: docs/decisions/0241-events-come-from-the-stream.md.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import kopf
import orjson
from kopf._cogs.clients import api, errors, watching

from .controller import Controller
from .settings import Settings
from .streams import Streams

log = logging.getLogger(__name__)

# Before a kind that is said to be there and is not is asked for again.
UNSERVED_SECONDS = 2.0

# How long after a change of a CRD the list of APIs is read again.
ECHO_SECONDS = (1.0, 5.0, 30.0)

Stream = Callable[..., AsyncIterator[Any]]


class Backoffs:
    """Endless: an outage of the API server must not become a crash loop of the operator."""

    def __iter__(self) -> Iterator[float]:
        return (random.uniform(0.5, 1) * min(30.0, 2.0 ** min(i, 5)) for i in itertools.count())  # noqa: S311


def tapped(stream: Stream, streams: Streams) -> Stream:
    """Give kopf's endless stream of one kind with the events taken out of it."""
    kinds = {(kind.group, kind.version, kind.plural): kind for kind in streams.kinds}

    async def infinite_watch(*, resource: Any, namespace: str | None, **more: Any) -> AsyncIterator[Any]:
        kind = kinds.get((resource.group, resource.version, resource.plural))
        events = stream(resource=resource, namespace=namespace, **more)
        if kind is None:
            # kopf's own: which CRDs there are.
            async for event in echoed(events, {kind.group for kind in streams.kinds}):
                yield event
            return
        place = namespace or ""
        try:
            while True:
                try:
                    async for event in events:
                        if event is watching.Bookmark.LISTED:
                            streams.listed(kind, place)
                            yield event
                        else:
                            take(streams, kind, place, event)
                except errors.APINotFoundError:
                    # kopf would end with it, and the process with kopf. But the list of APIs names a kind some moments
                    # before it is served, and after it was: kopf ends this stream itself once the list has changed.
                    streams.missed(kind)
                await asyncio.sleep(UNSERVED_SECONDS)
                events = stream(resource=resource, namespace=namespace, **more)
        finally:
            streams.ended(kind, place)

    return infinite_watch


async def echoed(events: AsyncIterator[Any], groups: set[str]) -> AsyncIterator[Any]:
    """Give the changes of CRDs, and those of our groups some more times, later.

    kopf reads the list of APIs once for each change. That list follows the CRDs by moments, seconds on a busy
    server: a kind that was read too early would have no stream until the next start.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()

    async def pump() -> None:
        async for event in events:
            queue.put_nowait(event)
            if event is not watching.Bookmark.LISTED and event["type"] and group_of(event) in groups:
                for seconds in ECHO_SECONDS:
                    loop.call_later(seconds, queue.put_nowait, event)

    pumping = asyncio.create_task(pump())
    # Wakes the reader where the stream ends, by an error of its own or by none.
    pumping.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (event := await queue.get()) is not None:
            yield event
        await pumping
    finally:
        pumping.cancel()


def group_of(event: Any) -> str:
    """Give the API group that an event of a CRD is about; empty for a bookmark."""
    return str((event["object"].get("spec") or {}).get("group", ""))


def take(streams: Streams, kind: Any, place: str, event: Any) -> None:
    """Hand over one event. One that nobody foresaw must not end the stream: the sweep comes back to it."""
    try:
        streams.event(kind, place, event["object"], event["type"])
    except Exception:
        log.exception("an event of %s could not be taken in", kind.plural)


def registry(controller: Controller) -> kopf.OperatorRegistry:
    """Have kopf watch our kinds, and log in as we do."""
    handlers = kopf.OperatorRegistry()

    async def passed_by(**_: Any) -> None:
        """What has a handler has a stream; no event gets as far as here."""

    async def login(**_: Any) -> kopf.AiohttpSession:
        session = await controller.api.session_of_streams()
        return kopf.AiohttpSession(server=controller.api.configuration.host, aiohttp_session=session)

    for kind in controller.streams.kinds:
        kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=handlers)(passed_by)
    kopf.on.login(registry=handlers)(login)
    return handlers


def configure(controller: Controller) -> kopf.OperatorSettings:
    """Switch off what we do ourselves, and make the watches patient."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.networking.error_backoffs = Backoffs()
    # Two dozen lists begin at once: with 500 in each page a start with 500 services held 17 MiB more.
    settings.watching.chunk_size = 100
    # With Roles only there is no right to watch CRDs and namespaces: one that comes later needs a restart.
    settings.scanning.disabled = bool(controller.settings.watch_namespaces)
    for kind in controller.streams.kinds:
        if kind.selector:
            # Tuple keys only: the string form of the docs matches nothing, silently.
            settings.watching.label_selectors[(kind.group, kind.version, kind.plural)] = kind.selector
    logging.getLogger("kopf.activities").setLevel(logging.WARNING)
    return settings


async def watch(controller: Controller, settings: Settings, asked: asyncio.Event, stop: asyncio.Event) -> None:
    """Run the streams until `stop`; a signal sets `asked`."""
    others = asyncio.all_tasks()
    original = watching.infinite_watch
    watching.infinite_watch = tapped(original, controller.streams)
    # It reads every event of every stream with this.
    api.json = orjson  # type: ignore[attr-defined]
    try:
        tasks = await kopf.spawn_tasks(
            registry=registry(controller),
            settings=configure(controller),
            standalone=True,
            clusterwide=not settings.watch_namespaces,
            namespaces=settings.watch_namespaces,
            stop_flag=stop,
        )
        # In place of kopf's own answer, which ends every task of the loop: the Lease is given
        # back first, and the streams end last.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        await kopf.run_tasks(tasks, ignored=others)
    finally:
        watching.infinite_watch, api.json = original, json  # type: ignore[attr-defined]
