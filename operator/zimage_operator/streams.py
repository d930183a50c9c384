"""What the streams tell goes into the cache and from there into the queue; what they keep silent about is found too."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from . import metrics
from .api import Api, Denied
from .cache import Cache
from .errors import ClusterUnavailable, OperatorError
from .health import Health
from .kinds import Kind, watched
from .manifest import Key
from .workqueue import WorkQueue

log = logging.getLogger(__name__)

# The safety net under the watches.
RESYNC_SECONDS = (600.0, 900.0)
SYNC_RETRY_SECONDS = 5.0


@dataclass
class Listing:
    """A (re-)list that is under way: the latest version known when it began, and the uids that it has shown."""

    up_to: int
    alive: set[str] = field(default_factory=set)


class Streams:
    """One stream for each kind, or for each kind and namespace."""

    def __init__(self, api: Api, namespaces: tuple[str, ...], cache: Cache, queue: WorkQueue, health: Health) -> None:
        self.api, self.namespaces, self.cache, self.queue, self.health = api, namespaces, cache, queue, health
        self.kinds = watched(everywhere=not namespaces)
        self.synced = asyncio.Event()
        # Of each stream: whether it has listed, and the list that it is at; by kind and namespace.
        self.first: defaultdict[tuple[str, str], asyncio.Event] = defaultdict(asyncio.Event)
        self.listings: dict[tuple[str, str], Listing] = {}
        self.judging: set[asyncio.Task[None]] = set()
        self.closing = False

    def close(self) -> None:
        """Take the end of a stream for what it is from now on: this process ends."""
        self.closing = True
        for task in self.judging:
            task.cancel()

    def event(self, kind: Kind, place: str, item: Mapping[str, Any], type_: str | None) -> None:
        """Take in one event of a stream; `type_` None: part of a (re-)list."""
        metrics.WATCH_EVENTS.labels(kind.name, type_ or "LISTED").inc()
        self.heard(kind, place)
        if type_ == "BOOKMARK":
            return
        self.health.told(kind.name)
        if type_ is None:
            self.listing(kind, place).alive.add(item["metadata"]["uid"])
        # What somebody has asked for goes before what a workload reports: of a thousand new services
        # each has its children before the first is looked at again.
        live = type_ is not None and not self.cache.is_progress(kind.name, item)
        for key in self.cache.observe(kind.name, item, deleted=type_ == "DELETED"):
            self.queue.add(key, live=live)

    def listed(self, kind: Kind, place: str) -> None:
        """A (re-)list is complete: what it has not shown was deleted while nobody looked."""
        self.heard(kind, place)
        listing = self.listing(kind, place)
        del self.listings[kind.name, place]
        gone = self.cache.sweep(kind.name, listing.alive, listing.up_to, place)
        metrics.SWEEP_DELETIONS.labels(kind.name).inc(len(gone))
        metrics.LAST_EVENT.labels(kind.name).set_to_current_time()
        for key in gone:
            self.queue.add(key)
        self.first[kind.name, place].set()
        if kind.optional:
            self.known(kind, now=True)

    def known(self, kind: Kind, *, now: bool) -> None:
        """An optional kind has come into the API, or has gone: what is made where it is known has to be looked at."""
        if now == (kind.name in self.cache.served):
            return
        (self.cache.served.add if now else self.cache.served.discard)(kind.name)
        for key in self.cache.services:
            self.queue.add(key, live=False)

    def ended(self, kind: Kind, place: str) -> None:
        """A stream has ended: in order if its kind was taken out of the API, or if this process ends too."""
        if not self.closing:
            task = asyncio.create_task(self.judge(kind, place))
            self.judging.add(task)
            task.add_done_callback(self.judging.discard)

    def missed(self, kind: Kind) -> None:
        """A stream was told that there is no such kind; it will ask again."""
        if kind.optional:
            self.known(kind, now=False)

    async def judge(self, kind: Kind, place: str) -> None:
        """Say that a stream is dead, unless nothing is there any more that it could watch."""
        try:
            served = await self.served(kind, place)
        except (OperatorError, Denied):
            served = True
        name = stream(kind, place)
        if served:
            log.error("the watch of %s has ended", name)
        else:
            self.known(kind, now=False)
        (self.health.stream_ended if served else self.health.stream_gone)(name)

    def heard(self, kind: Kind, place: str) -> None:
        """A stream lives."""
        self.health.heard(stream(kind, place), asyncio.get_running_loop().time())
        metrics.LAST_SIGN.labels(kind.name).set_to_current_time()

    def listing(self, kind: Kind, place: str) -> Listing:
        """Give the list that is being taken in; what is seen later than its beginning is not judged by it."""
        found = self.listings.get((kind.name, place))
        if found is None:
            found = self.listings[kind.name, place] = Listing(self.cache.newest(kind.name))
        return found

    async def sync(self) -> None:
        """Wait for the first list of every stream: a half-filled cache would look like missing children."""
        await asyncio.gather(*(self.first_list(kind, place) for kind in self.kinds for place in self.places(kind)))
        self.synced.set()
        log.info("in sync: %d services", len(self.cache.services))

    async def first_list(self, kind: Kind, place: str) -> None:
        """Wait until a stream has listed; not for one of a kind that this cluster does not have."""
        first = self.first[kind.name, place]
        while not first.is_set():
            try:
                if not await self.served(kind, place):
                    return
            except (OperatorError, Denied) as error:
                log.error("cannot list %s yet: %s", kind.plural, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(SYNC_RETRY_SECONDS):
                    await first.wait()

    async def served(self, kind: Kind, place: str) -> bool:
        """Whether there is such a kind.

        Raises:
            ClusterUnavailable: there is not, and nothing works without it.
            Denied: it may not be listed.
        """
        try:
            await self.api.request("GET", kind.path(place), kind=kind.name, query={"limit": "1"})
        except Denied as error:
            if error.code != 404:
                raise
            if not kind.optional:
                message = f"{kind.plural}.{kind.group} is not served: kubectl apply --server-side -f crds/"
                raise ClusterUnavailable(message) from error
            return False
        return True

    def places(self, kind: Kind) -> tuple[str, ...]:
        """Give the namespaces that a kind is watched in; "" is all of them."""
        return (self.namespaces if kind.namespaced else ()) or ("",)

    async def relist(self, kind: Kind) -> None:
        """List one kind in full, take it in, and forget what is no longer there."""
        for place in self.places(kind):
            alive: set[str] = set()
            version = 0
            async for items, at in self.pages(kind, place):
                version = at
                for item in items:
                    alive.add(item["metadata"]["uid"])
                    self.take_in(kind, self.cache.observe(kind.name, item), live=False)
            gone = self.cache.sweep(kind.name, alive, version, place) if version else []
            metrics.SWEEP_DELETIONS.labels(kind.name).inc(len(gone))
            self.take_in(kind, gone, live=True)
        metrics.LAST_EVENT.labels(kind.name).set_to_current_time()

    def take_in(self, kind: Kind, keys: Collection[Key], *, live: bool) -> None:
        """Queue what a sweep has shown; that its stream had not told it is a sign that the stream is dead."""
        for key in keys:
            self.queue.add(key, live=live)
        if keys:
            self.health.surprised(kind.name, asyncio.get_running_loop().time())

    async def pages(self, kind: Kind, place: str) -> AsyncIterator[tuple[list[dict[str, Any]], int]]:
        """Give the pages of a list; a kind that is not there has none."""
        try:
            async for page in self.api.pages(kind, place):
                yield page
        except Denied as error:
            if error.code != 404:
                raise

    async def resync(self) -> None:
        """List everything again from time to time: the net under the watches."""
        while True:
            await asyncio.sleep(random.uniform(*RESYNC_SECONDS))  # noqa: S311
            for kind in self.kinds:
                try:
                    await self.relist(kind)
                except (OperatorError, Denied) as error:
                    log.warning("the list of %s failed, the next one repeats it: %s", kind.plural, error)


def stream(kind: Kind, place: str) -> str:
    """Name a stream."""
    return f"{kind.name} in {place}" if place else kind.name
