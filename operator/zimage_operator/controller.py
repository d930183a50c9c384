"""Cache → queue → reconcile → status: the loop around the straight line. It holds no rules."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
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
from .leader import Leader
from .logs import about, named
from .manifest import Environment, Key, Ref
from .measure import forget, measure
from .memory import give_back
from .neighbours import PolicyFacts, could_select
from .pace import Pace
from .reconcile import Outcome, Probing, reconcile
from .settings import Settings
from .status import KUBELET_PATIENCE, PROTECTION_KINDS, ROUTE_KINDS
from .streams import SYNC_RETRY_SECONDS, Streams
from .verify import Verifier
from .workqueue import WorkQueue

log = logging.getLogger(__name__)

WORKERS = 16
# What no watch of ours tells the end of (somebody else's object in the way).
REFUSED_SECONDS = 5.0
# The whole way of a service to Ready takes some five writes. Somebody who rewrites a Deployment fifty
# times a second makes it progress and be available again as often: that is told every two seconds.
STATUS_BURST = 10
STATUS_SECONDS = 2.0
# A reconcile takes some tenths of a second; the next leader waits for the end of the last one.
DRAIN_SECONDS = 1.0
TIDY_SECONDS = 5.0


class Controller:
    """Everything that one operator process does between the streams and the API server."""

    def __init__(self, api: Api, settings: Settings, identity: str) -> None:
        self.api, self.settings = api, settings
        self.cache, self.queue = Cache(), WorkQueue()
        self.cache.entrances.told = settings.ingress_classes
        self.recorder = Recorder(api, identity)
        self.cluster = Cluster(api, self.cache, self.recorder.repaired, self.queue.add_after)
        self.verifier = Verifier(self.cache, settings.probe_interval_seconds, settings.edge, self.queue.add)
        self.health = Health(self.verifier.problems, failed_at=lambda: api.failed_at)
        self.streams = Streams(api, settings.watch_namespaces, self.cache, self.queue, self.health)
        self.leader = Leader(api, settings.namespace, identity)
        self.issuer = Issuer(self.cluster, self.recorder.issued)
        self.environment = Environment(
            settings.worker_image,
            settings.namespace,
            update_policy=settings.update_policy,
            pod_monitors=settings.pod_monitors,
            pod_monitor_labels=settings.pod_monitor_labels,
            bounds=settings.bounds,
        )
        self.pace = Pace(STATUS_BURST, STATUS_SECONDS)
        # Whose status this process has judged by what it has seen itself.
        self.judged: set[Key] = set()
        # Since memory was last given back.
        self.worked = False

    async def run(self) -> None:
        """Fill the cache, wait for the lead, work. Ends only by an error or by cancellation."""
        try:
            await self.streams.sync()
            give_back()
            if self.settings.leader_election:
                self.api.fence = self.leader.check
                await self.leader.acquire()
            await self.recall()
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self.work())
                group.create_task(self.streams.resync())
                group.create_task(self.tidy())
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
        self.streams.close()
        await self.verifier.close()
        await self.recorder.close()
        if self.settings.leader_election:
            await self.leader.release()

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

    async def tidy(self) -> None:
        """Give memory back whenever there is nothing left to do."""
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            if self.worked and not self.queue:
                self.worked = False
                give_back()

    async def work(self) -> None:
        """Work on one key after the other; what an error means is read off its type."""
        while True:
            key = await self.queue.get()
            self.worked = True
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
        kinds = PROTECTION_KINDS | ROUTE_KINDS
        found = (f"{seen.uid} {seen.stamp}" for target, seen in self.cache.of(key).items() if target.kind in kinds)
        return " ".join(sorted(found))

    def gone(self, key: Key) -> None:
        """Forget a resource that was deleted; the garbage collector takes its children."""
        self.verifier.forget(key)
        self.judged.discard(key)
        self.pace.forget(key)
        for target in self.cache.of(key):
            self.cluster.forget(target)
        forget(key)


def asked(outcome: Outcome) -> str:
    """Give the host that strangers must be refused at; empty if nothing is published, or all are welcome."""
    service = outcome.service
    if service is None or service.auth.in_force == "None" or "url" not in outcome.status or not service.spec.published:
        return ""
    return service.spec.published.host


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
