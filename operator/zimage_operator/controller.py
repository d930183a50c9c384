"""Cache → queue → reconcile → status: the loop around the straight line. It holds no rules."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from . import metrics
from .api import Api, Denied
from .cache import Cache, Key
from .cluster import Cluster
from .credentials import Issuer
from .errors import ClusterUnavailable, Conflict, NamespaceTerminating, OperatorError
from .events import Recorder
from .kinds import Kind, watched
from .leader import Leader
from .manifest import Environment, Ref
from .observed import ClassFacts, instant
from .reconcile import Outcome, Probing, reconcile
from .settings import Settings
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
        self.cluster = Cluster(api, self.cache, self.recorder.repaired)
        self.verifier = Verifier(self.cache, settings.probe_interval_seconds, self.queue.add)
        self.leader = Leader(api, settings.namespace, identity)
        self.issuer = Issuer(self.cluster, self.recorder.issued)
        self.environment = Environment(
            settings.worker_image, settings.namespace, settings.allowed_image_prefixes, settings.allow_jwks_url
        )
        self.synced = asyncio.Event()
        self.sweeps: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Fill the cache, wait for the lead, work. Ends only by an error or by cancellation."""
        try:
            await self.sync()
            if self.settings.leader_election:
                await self.leader.acquire()
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
                    for key in self.cache.observe(kind.name, item):
                        self.queue.add(key, live=False)
            gone = self.cache.sweep(kind.name, alive, version, place) if version else []
            metrics.SWEEP_DELETIONS.labels(kind.name).inc(len(gone))
            for key in gone:
                self.queue.add(key)
        metrics.LAST_EVENT.labels(kind.name).set_to_current_time()

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
            try:
                with metrics.RECONCILE_SECONDS.time():
                    await self.one(key)
                self.queue.forget(key)
                result = "done"
            except Conflict:
                self.queue.add(key)
                result = "conflict"
            except NamespaceTerminating:
                result = "terminating"
            except ClusterUnavailable as error:
                log.warning("%s/%s: %s", *key, error)
                self.queue.retry(key)
                result = "unavailable"
            except OperatorError as error:
                log.warning("%s/%s: %s", *key, error)
                self.queue.retry(key)
                result = "refused"
            except Exception:
                # A fault of ours in one resource must not stop the others; it is loud, and tried again.
                log.exception("%s/%s: unexpected", *key)
                self.queue.retry(key)
                result = "error"
            finally:
                self.queue.done(key)
            metrics.RECONCILES.labels(result).inc()
            metrics.QUEUE_DEPTH.set(len(self.queue))

    async def one(self, key: Key) -> None:
        """Reconcile one resource and write its status."""
        body = self.cache.services.get(key)
        if body is None:
            return self.gone(key)
        if body["metadata"].get("deletionTimestamp"):
            return None
        probing = Probing(self.verifier.enabled, self.verifier.reports)
        outcome = await reconcile(body, self.cluster, self.issuer, self.environment, probing, datetime.now(UTC))
        self.recorder.transition(body, outcome.status)
        await self.cluster.apply_status(body, outcome.status)
        measure(key, outcome)
        if outcome.refused:
            self.queue.add_after(key, REFUSED_SECONDS)
        receipt = self.cluster.receipt(outcome.service) if outcome.service and outcome.service.generated else None
        self.verifier.follow(key, self.fingerprint(key), receipt.sha256 if receipt else "")
        self.verifier.clean()
        return None

    def fingerprint(self, key: Key) -> str:
        """Say which policy stands: a probe is about one state of it."""
        seen = self.cache.children.get(Ref("NetworkPolicy", *key))
        return f"{seen.uid} {seen.version}" if seen else ""

    def gone(self, key: Key) -> None:
        """Forget a resource that was deleted; the garbage collector takes its children."""
        for target in [target for target, _ in self.cache.of(key)]:
            self.cache.applied.pop(target, None)
        self.verifier.expected.pop(key, None)
        forget(key)


STATES = ("True", "False", "Unknown")
# What was exported for a service, so that it can be taken back.
exported: dict[Key, set[str]] = {}


def measure(key: Key, outcome: Outcome) -> None:
    """Export the conditions of a service."""
    conditions = outcome.status["conditions"]
    types = {item["type"] for item in conditions}
    for type_ in exported.get(key, set()) - types:
        for state in STATES:
            metrics.CONDITION.remove(*key, type_, state)
    exported[key] = types
    for item in conditions:
        for state in STATES:
            metrics.CONDITION.labels(*key, item["type"], state).set(item["status"] == state)
    expiry = instant((outcome.status.get("certificate") or {}).get("notAfter"))
    if expiry:
        metrics.CERTIFICATE_EXPIRY.labels(*key).set(expiry.timestamp())


def forget(key: Key) -> None:
    """Take back what was exported for a service."""
    for type_ in exported.pop(key, set()):
        for state in STATES:
            metrics.CONDITION.remove(*key, type_, state)
