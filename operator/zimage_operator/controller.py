"""Cache → queue → reconcile → status: the loop around the straight line. It holds no rules."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
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
from .reconcile import Outcome, Probing, reconcile
from .settings import Settings
from .status import KUBELET_PATIENCE
from .verify import Verifier
from .workqueue import WorkQueue

log = logging.getLogger(__name__)

WORKERS = 16
# After a re-list: let its events pass before looking for deletions that it does not report.
SETTLE_SECONDS = 2.0
# The safety net under the watches.
RESYNC_SECONDS = (600.0, 900.0)
# What no watch of ours tells the end of (somebody else's object in the way).
REFUSED_SECONDS = 5.0
SYNC_RETRY_SECONDS = 5.0


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
        self.health = Health(self.verifier.problems)
        self.leader = Leader(api, settings.namespace, identity)
        self.issuer = Issuer(self.cluster, self.recorder.issued)
        self.environment = Environment(
            settings.worker_image,
            settings.namespace,
            update_policy=settings.update_policy,
            bounds=settings.bounds,
        )
        self.synced = asyncio.Event()
        self.sweeps: dict[str, asyncio.Task[None]] = {}
        # Whose status this process has judged by what it has seen itself.
        self.judged: set[Key] = set()

    async def run(self) -> None:
        """Fill the cache, wait for the lead, work. Ends only by an error or by cancellation."""
        try:
            await self.sync()
            if self.settings.leader_election:
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

    async def close(self) -> None:
        """Let go of everything; the Lease last."""
        for task in self.sweeps.values():
            task.cancel()
        await self.verifier.close()
        await self.recorder.close()
        if self.settings.leader_election:
            await self.leader.release()

    def event(self, kind: Kind, item: Mapping[str, Any], type_: str | None) -> None:
        """Take in one event of a watch; `type_` None: part of a (re-)list."""
        metrics.WATCH_EVENTS.labels(kind.name, type_ or "LISTED").inc()
        self.health.heard(kind.name)
        for key in self.cache.observe(kind.name, item, deleted=type_ == "DELETED"):
            self.queue.add(key, live=type_ is not None)
        if type_ is None and self.synced.is_set():
            self.sweep_soon(kind)

    def sweep_soon(self, kind: Kind) -> None:
        """Look for missed deletions once a re-list has calmed down."""
        if old := self.sweeps.get(kind.name):
            old.cancel()
        self.sweeps[kind.name] = asyncio.create_task(self.sweep(kind))

    async def sweep(self, kind: Kind) -> None:
        """List a kind after a moment, and forget what is gone."""
        await asyncio.sleep(SETTLE_SECONDS)
        try:
            await self.relist(kind)
        except OperatorError as error:
            log.warning("the list of %s failed, the next resync repeats it: %s", kind.plural, error)

    async def sync(self) -> None:
        """Fill the cache before any worker runs: a half-filled one would look like missing children."""
        for kind in self.kinds:
            while True:
                try:
                    await self.relist(kind)
                    break
                except (OperatorError, Denied) as error:
                    log.error("cannot list %s yet: %s", kind.plural, error)
                    await asyncio.sleep(SYNC_RETRY_SECONDS)
        self.synced.set()
        log.info("in sync: %d services", len(self.cache.services))

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
        places = self.settings.watch_namespaces if kind.namespaced else ()
        for place in places or ("",):
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
        """Queue what a list has shown; that its stream had not told it is a sign that the stream is dead."""
        for key in keys:
            self.queue.add(key, live=live)
        if keys and self.synced.is_set():
            self.health.surprised(kind.name, asyncio.get_running_loop().time())

    async def pages(self, kind: Kind, place: str) -> AsyncIterator[tuple[list[dict[str, Any]], int]]:
        """Give the pages of a list; a kind that may be missing has none where it is."""
        try:
            async for page in self.api.pages(kind, place):
                yield page
        except Denied as error:
            if error.code != 404:
                raise
            if not kind.optional:
                message = f"{kind.plural}.{kind.group} is not served: kubectl apply --server-side -f crds/"
                raise ClusterUnavailable(message) from error

    async def resync(self) -> None:
        """List everything again from time to time: the net under the watches."""
        while True:
            await asyncio.sleep(random.uniform(*RESYNC_SECONDS))  # noqa: S311
            for kind in self.kinds:
                await self.sweep(kind)

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
        probing = Probing(self.verifier.enabled, self.verifier.pods.reports, self.verifier.edges.reports)
        outcome = await reconcile(body, self.cluster, self.issuer, self.environment, probing, datetime.now(UTC))
        if outcome.refused:
            self.queue.add_after(key, REFUSED_SECONDS)
        if (patience := patience_left(outcome, datetime.now(UTC))) > 0:
            self.queue.add_after(key, patience)
        host = asked(outcome)
        self.verifier.follow(key, self.policies(key), host, self.route(key), made_up(outcome))
        if self.blind_yet(key, body, host):
            return None
        self.judged.add(key)
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
        for target in [target for target, _ in self.cache.of(key)]:
            self.cluster.forget(target)
        forget(key)


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
