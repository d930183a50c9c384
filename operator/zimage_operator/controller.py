"""Cache → queue → reconcile → status: the loop around the straight line. It holds no rules."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from . import metrics
from .api import Api, Denied
from .cache import Cache
from .cluster import Cluster
from .credentials import Issuer
from .errors import ClusterUnavailable, Conflict, NamespaceTerminating, OperatorError
from .events import Recorder
from .health import Health
from .history import remember
from .kinds import Kind, watched
from .leader import Leader
from .logs import about, named
from .manifest import Environment, Key, Ref
from .measure import forget, measure
from .neighbours import PolicyFacts, could_select
from .observed import ClassFacts
from .pace import Pace
from .reconcile import Outcome, Probing, reconcile
from .settings import Settings
from .status import KUBELET_PATIENCE
from .verify import Verifier
from .workqueue import WorkQueue

log = logging.getLogger(__name__)

WORKERS = 16
# The safety net under the watches.
RESYNC_SECONDS = (600.0, 900.0)
# What no watch of ours tells the end of (somebody else's object in the way).
REFUSED_SECONDS = 5.0
SYNC_RETRY_SECONDS = 5.0
# The whole way of a service to Ready takes some five writes. Somebody who rewrites a Deployment fifty
# times a second makes it progress and be available again as often: that is told once a second.
STATUS_BURST = 10
STATUS_SECONDS = 1.0
# A reconcile takes some tenths of a second; the next leader waits for the end of the last one.
DRAIN_SECONDS = 1.0


@dataclass
class Listing:
    """A (re-)list that is under way: the latest version known when it began, and the uids that it has shown."""

    up_to: int
    alive: set[str] = field(default_factory=set)


class Controller:
    """Everything that one operator process does between the streams and the API server."""

    def __init__(self, api: Api, settings: Settings, identity: str) -> None:
        self.api, self.settings = api, settings
        self.kinds = watched(everywhere=not settings.watch_namespaces)
        self.cache, self.queue = Cache(), WorkQueue()
        self.cache.classes |= {name: ClassFacts(found) for name, found in settings.ingress_classes.items()}
        self.recorder = Recorder(api, identity)
        self.cluster = Cluster(api, self.cache, self.recorder.repaired, self.queue.add_after)
        self.verifier = Verifier(self.cache, settings.probe_interval_seconds, settings.edge, self.queue.add)
        self.health = Health(self.verifier.problems, failed_at=lambda: api.failed_at)
        self.leader = Leader(api, settings.namespace, identity)
        self.issuer = Issuer(self.cluster, self.recorder.issued)
        self.environment = Environment(
            settings.worker_image,
            settings.namespace,
            update_policy=settings.update_policy,
            bounds=settings.bounds,
        )
        self.synced = asyncio.Event()
        # Of each stream: whether it has listed, and the list that it is at; by kind and namespace.
        self.first: defaultdict[tuple[str, str], asyncio.Event] = defaultdict(asyncio.Event)
        self.listings: dict[tuple[str, str], Listing] = {}
        self.pace = Pace(STATUS_BURST, STATUS_SECONDS)
        self.judging: set[asyncio.Task[None]] = set()
        self.closing = False
        # Whose status this process has judged by what it has seen itself.
        self.judged: set[Key] = set()

    async def run(self) -> None:
        """Fill the cache, wait for the lead, work. Ends only by an error or by cancellation."""
        try:
            await self.sync()
            if self.settings.leader_election:
                self.api.fence = self.leader.check
                await self.leader.acquire()
            await self.recall()
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self.work())
                group.create_task(self.resync())
                if self.settings.leader_election:
                    group.create_task(self.leader.hold())
        finally:
            await self.close()

    async def drain(self) -> None:
        """Let what is under way come to its end, for a moment: a write that is broken off may still be made."""
        self.queue.closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self.queue.busy:
                    await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Let go of everything; the Lease last."""
        self.closing = True
        for task in self.judging:
            task.cancel()
        await self.verifier.close()
        await self.recorder.close()
        if self.settings.leader_election:
            await self.leader.release()

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

    def ended(self, kind: Kind, place: str) -> None:
        """A stream has ended: in order if its kind was taken out of the API, or if this process ends too."""
        if not self.closing:
            task = asyncio.create_task(self.judge(kind, place))
            self.judging.add(task)
            task.add_done_callback(self.judging.discard)

    async def judge(self, kind: Kind, place: str) -> None:
        """Say that a stream is dead, unless nothing is there any more that it could watch."""
        try:
            served = await self.served(kind, place)
        except (OperatorError, Denied):
            served = True
        name = stream(kind, place)
        if served:
            log.error("the watch of %s has ended", name)
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
        return (self.settings.watch_namespaces if kind.namespaced else ()) or ("",)

    async def recall(self) -> None:
        """Learn which images ran before, before any worker runs: without it an upgrade restarts every GPU pod."""
        image, namespace = self.settings.worker_image, self.settings.namespace
        while True:
            try:
                former = await remember(self.api, namespace, image)
                break
            except (OperatorError, Denied) as error:
                log.error("cannot read which worker images ran before: %s", error)
                await asyncio.sleep(SYNC_RETRY_SECONDS)
        self.environment = replace(self.environment, former_worker_images=former)

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

    async def work(self) -> None:
        """Work on one key after the other; what an error means is read off its type."""
        while True:
            key = await self.queue.get()
            self.health.begun(key, asyncio.get_running_loop().time())
            try:
                with metrics.RECONCILE_SECONDS.time(), about(key):
                    await self.one(key)
                self.queue.forget(key)
                result = "done"
            except Conflict:
                self.queue.add(key)
                result = "conflict"
            except NamespaceTerminating:
                result = "terminating"
            except ClusterUnavailable as error:
                log.warning("%s", error, extra=named(key))
                self.queue.retry(key)
                result = "unavailable"
            except OperatorError as error:
                log.warning("%s", error, extra=named(key))
                self.queue.retry(key)
                result = "refused"
            except Exception:
                # A fault of ours in one resource must not stop the others; it is loud, and tried again.
                log.exception("unexpected", extra=named(key))
                self.queue.retry(key)
                result = "error"
            finally:
                self.queue.done(key)
                self.health.ended(key)
            metrics.RECONCILES.labels(result).inc()
            metrics.QUEUE_DEPTH.set(len(self.queue))

    async def one(self, key: Key) -> None:
        """Reconcile one resource and write its status."""
        body = self.cache.services.get(key)
        if body is None:
            return self.gone(key)
        if body["metadata"].get("deletionTimestamp"):
            return None
        seen = self.verifier
        probing = Probing(seen.enabled, seen.pods.reports, seen.edges.reports, seen.fetches.reports)
        outcome = await reconcile(body, self.cluster, self.issuer, self.environment, probing, datetime.now(UTC))
        if outcome.refused:
            self.queue.add_after(key, REFUSED_SECONDS)
        if (patience := patience_left(outcome, datetime.now(UTC))) > 0:
            self.queue.add_after(key, patience)
        host = asked(outcome)
        self.verifier.follow(key, self.policies(key), host, self.route(key), made_up(outcome))
        self.verifier.follow_downloads(key)
        if self.blind_yet(key, body, host):
            return None
        self.judged.add(key)
        if outcome.status != body.get("status") and (wait := self.pace.wait(key, asyncio.get_running_loop().time())):
            self.queue.add_after(key, wait)
            return None
        # Told after it was written: a write that failed comes again, and must not be told twice.
        if await self.cluster.apply_status(body, outcome.status):
            self.recorder.transitions(body, outcome.status, outcome.observed.exposure.holes)
        measure(key, outcome)
        return None

    def blind_yet(self, key: Key, body: Mapping[str, Any], host: str) -> bool:
        """Whether a new process has to look first: what the last one wrote is no worse than not knowing.

        Without this a restart, or another leader, would write every status twice: NotProbed and back.
        """
        told = (body.get("status") or {}).get("observedGeneration") == body["metadata"]["generation"]
        return told and key not in self.judged and self.verifier.pending(key, host)

    def policies(self, key: Key) -> str:
        """Say which policies stand about a service's pods: a probe is about one state of them."""
        seen = self.cache.children.get(Ref("NetworkPolicy", *key))
        around = self.cache.neighbourhood.near(key[0])
        others = [
            f"{one.uid} {one.version}"
            for one in around
            if isinstance(one.facts, PolicyFacts) and could_select(one.facts, key[1])
        ]
        return " ".join([*([f"{seen.uid} {seen.version}"] if seen else []), *others])

    def route(self, key: Key) -> str:
        """Say which route stands, with its helpers."""
        kinds = ("Ingress", "Middleware")
        return " ".join(f"{seen.uid} {seen.stamp}" for target, seen in self.cache.of(key) if target.kind in kinds)

    def gone(self, key: Key) -> None:
        """Forget a resource that was deleted; the garbage collector takes its children."""
        self.verifier.forget(key)
        self.judged.discard(key)
        self.pace.forget(key)
        for target in [target for target, _ in self.cache.of(key)]:
            self.cluster.forget(target)
        forget(key)


def stream(kind: Kind, place: str) -> str:
    """Name a stream."""
    return f"{kind.name} in {place}" if place else kind.name


def asked(outcome: Outcome) -> str:
    """Give the host that strangers must be refused at; empty if nothing is published, or all are welcome."""
    service = outcome.service
    if service is None or service.auth.in_force == "None" or "url" not in outcome.status or not service.spec.ingress:
        return ""
    return service.spec.ingress.host


def patience_left(outcome: Outcome, now: datetime) -> float:
    """Give the seconds until a worker that holds other credentials than the generated ones holds somebody else's.

    Until then the kubelet may be on its way; nothing happens at that moment that would have us look again.
    """
    receipt = outcome.observed.receipt
    if not (receipt and outcome.service and outcome.service.generated):
        return 0.0
    return (receipt.created + KUBELET_PATIENCE - now).total_seconds()


def made_up(outcome: Outcome) -> str:
    """Give the SHA-256 of the htpasswd file that the workers are to hold; empty where it is the user's own."""
    receipt = outcome.observed.receipt
    return receipt.sha256 if receipt and outcome.service and outcome.service.generated else ""
