"""apply, prune, observe, report: everything that the operator does to the cluster, and its own cache.

Server-side apply with one field manager. What is equal to the live object is not sent; what
bears our name and is not ours is never touched.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from . import metrics
from .api import JSON_PATCH, MERGE_APPLY, Api, Denied
from .cache import Cache, Seen, pack
from .children.download import download_job
from .entrances import Entrance, Verdict
from .errors import (
    Altered,
    CertManagerMissing,
    ClaimsMissing,
    Conflict,
    KindMissing,
    MonitoringMissing,
    NamespaceTerminating,
    NotOwned,
    Refused,
    Rejected,
)
from .exposure import Exposure, Surroundings
from .kinds import BY_NAME, CHILDREN, INSTALL, SECRETS, SERVICES
from .manifest import Environment, Key, Manifest, Ref, ref, stamped
from .models import RETRY, Choice, ClaimFacts, FetchReport, JobFacts, choose, weights
from .names import API_VERSION, HANDOVER_MANAGER, HASH_ANNOTATION, KIND, MANAGER, MODEL_CLAIM, RECEIPT, STATUS_MANAGER
from .neighbours import ENDED
from .observed import (
    DeploymentFacts,
    Drift,
    EdgeReport,
    Fetching,
    Observed,
    ReceiptFacts,
    Report,
    at,
    differences,
    drift,
    held_replicas,
    owner_uid,
    read,
    reclaimed,
)
from .spec import ZImageService
from .status import PROTECTION_KINDS

log = logging.getLogger(__name__)
F = TypeVar("F")

# Between two repairs of one object: a competitor that rewrites it in a loop costs four writes a
# second, and a policy that it opened is never open for longer than this.
REPAIR_SECONDS = 0.25
# No object has it: etcd's first revision is older than any.
NEW = "1"
# A claim holds what takes hours to get back, and a policy that selects nobody harms nobody: never pruned, only
# garbage-collected with the resource. A Job is put away by `retire`, which knows what it stands for.
NEVER_PRUNED = frozenset({"PersistentVolumeClaim", "NetworkPolicy", "Job"})


@dataclass(frozen=True)
class Repair:
    """A hand edit that was put right: what it was, and who did it (field managers)."""

    target: Ref
    fields: tuple[str, ...]
    managers: tuple[str, ...]
    deleted: bool = False


class Cluster:
    """The API server, seen through the cache."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        on_repair: Callable[[ZImageService, Repair], None],
        later: Callable[[Key, float], None],
    ) -> None:
        self.api, self.cache, self.on_repair, self.later = api, cache, on_repair, later
        # When each object was last put right, by the loop's clock.
        self.repaired: dict[Ref, float] = {}
        # What the API server makes of our intent at once (an admission policy that injects):
        # the fields, and their values. It is a co-owner's, and not fought over.
        self.conceded: dict[Ref, dict[tuple[str, ...], Any]] = {}
        # Names that were somebody else's when we last looked: looked at again before anything is sent.
        self.taken: set[Ref] = set()

    async def apply(self, service: ZImageService, wanted: Collection[Manifest]) -> tuple[Refused, ...]:
        """Bring `wanted` in place, in order; stop at the first object that is refused.

        What comes later in the order relies on what comes before it: no pod without its policy.

        Raises:
            Conflict, ClusterUnavailable: come back later.
            NamespaceTerminating: nothing more is to be done.
        """
        for item in wanted:
            try:
                await self.apply_one(service, stamped(item))
            except Refused as error:
                metrics.APPLIES.labels(item["kind"], "refused").inc()
                return (error,)
        return ()

    async def apply_one(self, service: ZImageService, item: Manifest) -> None:
        """Bring one object in place, unless it is there as wanted."""
        target = ref(item)
        seen = self.cache.children.get(target)
        known = self.cache.applied.get(target)
        if seen and seen.owner != service.uid:
            raise not_owned(target)
        if seen is None and target in self.taken:
            seen = await self.find(service, target)
        if seen and self.stands(target, item, seen):
            self.cache.applied[target] = stamp(item)
            return
        if known == stamp(item) and not self.turn(service, target):
            self.guard(target)
            return
        live = None if seen else await self.send_new(target, item)
        if not live and not seen:
            seen = await self.find(service, target)
        before = seen.live() if seen and seen.body else None
        if seen:
            await self.hand_over(service, item, seen.uid)
        live = live or await self.send(target, item, uid=seen.uid if seen else "")
        self.cache.observe(target.kind, live, verified=True)
        metrics.APPLIES.labels(target.kind, "changed" if seen else "created").inc()
        self.concede(target, item, live)
        if known == stamp(item):
            self.report(service, target, drift(item, before) if before else [], deleted=seen is None)
        self.cache.applied[target] = stamp(item)
        self.guard(target)

    def stands(self, target: Ref, item: Manifest, seen: Seen) -> bool:
        """Whether the live object carries this very intent and still looks like it."""
        if seen.stamp != stamp(item):
            return False
        conceded = self.conceded.get(target, {})
        if conceded and target.kind in PROTECTION_KINDS:
            return False  # tried again until it is taken as it is
        body = seen.live() if seen.body else None
        if body is not None and any(
            path not in conceded or at(body, path) != conceded[path] for path in differences(item, body)
        ):
            return False
        seen.body = None
        return True

    def turn(self, service: ZImageService, target: Ref) -> bool:
        """Whether a repair of this object may be made now; if not, the service is looked at again soon."""
        now = asyncio.get_running_loop().time()
        left = self.repaired.get(target, -REPAIR_SECONDS) + REPAIR_SECONDS - now
        if left > 0:
            self.later((service.namespace, service.name), left)
            return False
        self.repaired[target] = now
        return True

    def concede(self, target: Ref, item: Manifest, live: Manifest) -> None:
        """Remember what the server made of our intent: what it changes at once we must not send for ever."""
        left = {path: at(live, path) for path in differences(item, live)}
        self.conceded.pop(target, None)
        if left:
            paths = ", ".join(".".join(path) for path in left)
            log.warning("%s %s/%s: the API server changed %s", target.kind, target.namespace, target.name, paths)
            self.conceded[target] = left

    def guard(self, target: Ref) -> None:
        """Refuse a protection that does not stand as it was sent.

        Raises:
            Altered: an admission policy or webhook changes it on its way in.
        """
        if target.kind in PROTECTION_KINDS and target in self.conceded:
            paths = ", ".join(".".join(path) for path in self.conceded[target])
            text = f"{target.kind} {target.name} does not stand as it was sent: something changes {paths} on its way in"
            advice = "exempt this object from the mutating admission policy or webhook that does"
            raise Altered(target.kind, target.name, f"{text}: {advice}")

    async def hand_over(self, service: ZImageService, wanted: Manifest, uid: str) -> None:
        """Have another field manager hold a Deployment's replicas before we fall silent about them.

        A field that its only owner no longer sends goes back to its default: from eight workers to one.
        """
        target, scaled = ref(wanted), service.spec.autoscaling
        if target.kind != "Deployment" or scaled is None or "replicas" in wanted["spec"]:
            return
        path = BY_NAME[target.kind].path(target.namespace, target.name)
        live = await self.asked("GET", path, target)
        count = held_replicas(live)
        if count is None:
            return
        # Not less than the minimum: an autoscaler leaves alone what stands at zero.
        item = {
            "apiVersion": live["apiVersion"],
            "kind": target.kind,
            "metadata": {"name": target.name, "namespace": target.namespace, "uid": uid},
            "spec": {"replicas": max(count, scaled.min_replicas)},
        }
        query = {"fieldManager": HANDOVER_MANAGER, "force": "true"}
        await self.asked("PATCH", path, target, query=query, body=item, content_type=MERGE_APPLY)

    async def asked(self, verb: str, path: str, target: Ref, **more: Any) -> Manifest:
        """Send one request about a child; a refusal says which one it is about."""
        try:
            answer: Manifest = await self.api.request(verb, path, kind=target.kind, **more)
        except Denied as error:
            raise translate(error, target) from error
        return answer

    async def find(self, service: ZImageService, target: Ref) -> Seen | None:
        """Look at a name that no watch has shown us: is it free, ours without its label, or somebody else's?"""
        try:
            path = BY_NAME[target.kind].path(target.namespace, target.name)
            live = await self.api.request("GET", path, kind=target.kind)
        except Denied as error:
            if error.code == 404:
                self.taken.discard(target)
                return None
            raise translate(error, target) from error
        if owner_uid(live) != service.uid:
            self.taken.add(target)
            raise not_owned(target)
        self.taken.discard(target)
        annotations = live["metadata"].get("annotations") or {}
        key = (service.namespace, service.name)
        facts, body = read(target.kind, live), pack(live, whole=True)
        return Seen(live["metadata"]["uid"], 0, service.uid, key, annotations.get(HASH_ANNOTATION, ""), facts, body)

    async def send_new(self, target: Ref, item: Manifest) -> Manifest | None:
        """Apply what must not be there yet, in one request; None where the name is taken.

        The API server holds a resource version against the object that is there, and against nothing
        where there is none (docs/decisions/0240-one-request-for-a-new-child.md).
        """
        body = {**item, "metadata": {**item["metadata"], "resourceVersion": NEW}}
        query = {"fieldManager": MANAGER, "force": "true"}
        path = BY_NAME[target.kind].path(target.namespace, target.name)
        try:
            return await self.asked("PATCH", path, target, query=query, body=body, content_type=MERGE_APPLY)
        except Conflict:
            return None

    async def send(self, target: Ref, item: Manifest, uid: str) -> Manifest:
        """Apply on the server; with `uid` only to that very object."""
        body = {**item, "metadata": {**item["metadata"], "uid": uid}} if uid else item
        query = {"fieldManager": MANAGER, "force": "true"}
        path = BY_NAME[target.kind].path(target.namespace, target.name)
        more: dict[str, Any] = {"query": query, "body": body, "content_type": MERGE_APPLY}
        try:
            return await self.asked("PATCH", path, target, **more)
        except Rejected as error:
            # What others left in our object may be what makes it invalid: a volume renamed by hand
            # stays beside ours, at the same mount path.
            if error.code != 422 or not uid or not await self.reclaim(target, path):
                raise
        return await self.asked("PATCH", path, target, **more)

    async def reclaim(self, target: Ref, path: str) -> bool:
        """Become the manager of what others hold of an object of ours: the next apply takes it out."""
        live = await self.asked("GET", path, target)
        held = reclaimed(live)
        if held is None:
            return False
        body = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
            {"op": "replace", "path": "/metadata/managedFields", "value": held},
        ]
        log.warning("%s %s/%s: what others added makes it invalid", target.kind, target.namespace, target.name)
        await self.asked("PATCH", path, target, query={"fieldManager": MANAGER}, body=body, content_type=JSON_PATCH)
        return True

    async def create(self, item: Manifest, *, dry_run: bool = False) -> str:
        """Create an object that must not be there yet; give its uid.

        Raises:
            Conflict: it is there.
        """
        target = ref(item)
        query = {"fieldManager": MANAGER} | ({"dryRun": "All"} if dry_run else {})
        path = BY_NAME[target.kind].path(target.namespace)
        try:
            live = await self.api.request("POST", path, kind=target.kind, query=query, body=item)
        except Denied as error:
            if error.reason == "AlreadyExists":
                raise Conflict(f"{target.kind} {target.name} already exists") from error
            raise translate(error, target) from error
        if not dry_run and target.kind != SECRETS.name:
            self.cache.observe(target.kind, live)
        return str(live["metadata"]["uid"])

    async def look(self, target: Ref) -> None:
        """Read one object anew: the watch may be a moment behind another replica's write."""
        try:
            path = BY_NAME[target.kind].path(target.namespace, target.name)
            self.cache.observe(target.kind, await self.api.request("GET", path, kind=target.kind))
        except Denied as error:
            if error.code != 404:
                raise translate(error, target) from error

    async def free(self, item: Manifest) -> bool:
        """Whether an object could be created: a dry run needs no right to read what may stand there."""
        try:
            await self.create(item, dry_run=True)
        except Conflict:
            return False
        return True

    def report(self, service: ZImageService, target: Ref, found: list[Drift], *, deleted: bool) -> None:
        """Tell of a hand edit: the same intent had been in place before."""
        if not found and not deleted:
            return
        metrics.DRIFT_REPAIRED.labels(target.kind).inc()
        fields = tuple(".".join(one.path) for one in found)
        managers = tuple(sorted({one.manager for one in found if one.manager}))
        self.on_repair(service, Repair(target, fields, managers, deleted))

    async def prune(self, service: ZImageService, keep: Collection[Manifest], only: Collection[str] = ()) -> None:
        """Delete what is ours and no longer wanted, in the reverse order of application; `only`: of these kinds."""
        kept = {ref(item) for item in keep}
        order = [kind.name for kind in CHILDREN if not only or kind.name in only]
        owned = [
            (target, seen)
            for target, seen in self.cache.of((service.namespace, service.name)).items()
            if seen.owner == service.uid and target.kind in order and target not in kept
            if target.kind not in NEVER_PRUNED
        ]
        for target, seen in sorted(owned, key=lambda pair: (order.index(pair[0].kind), pair[0]), reverse=True):
            await self.delete(target, seen.uid)

    def choose(self, service: ZImageService, environment: Environment) -> Choice:
        """Decide what becomes of a service's models, by what is known now."""
        key: Key = (service.namespace, service.name)
        deployed = self.deployed(service)
        in_use = {pod.model for pod in self.cache.pods(key)}
        jobs = [seen.facts for seen in self.jobs(service).values() if isinstance(seen.facts, JobFacts)]
        found = choose(service, jobs, self.claim(service), deployed.model if deployed else "", in_use)
        if found.wanted is None:
            return found
        # A Job that exists keeps what it was told to keep: its pod cannot be changed.
        name = ref(download_job(service, environment, found)).name
        return next((replace(found, keep=job.keep) for job in jobs if job.name == name), found)

    async def retire(self, service: ZImageService, choice: Choice, wanted: Collection[Manifest], now: datetime) -> None:
        """Put away the Jobs that stand for nothing, and those that failed a while ago: they are made anew.

        Before another one is made: two that write to one volume would fill it.
        """
        kept = {ref(item).name for item in wanted} | choice.records
        for target, seen in self.jobs(service).items():
            job = seen.facts if isinstance(seen.facts, JobFacts) else None
            if job and job.failed and target.name in kept:
                left = (job.failed + RETRY - now).total_seconds()
                if left > 0:
                    self.later((service.namespace, service.name), left)
                    continue
            elif target.name in kept:
                continue
            await self.delete(target, seen.uid)

    def jobs(self, service: ZImageService) -> dict[Ref, Seen]:
        """Give a service's download Jobs, by name."""
        found = self.cache.of((service.namespace, service.name))
        names = sorted(target for target in found if target.kind == "Job" and found[target].owner == service.uid)
        return {target: found[target] for target in names}

    def claim(self, service: ZImageService) -> ClaimFacts | None:
        """Give what is known of the volume for fetched models."""
        return self.facts(service, "PersistentVolumeClaim", f"{service.name}-{MODEL_CLAIM}", ClaimFacts)

    def deployed(self, service: ZImageService) -> DeploymentFacts | None:
        """Give how far the workload is, if there is one."""
        return self.facts(service, "Deployment", service.name, DeploymentFacts)

    def facts(self, service: ZImageService, kind: str, name: str, of: type[F]) -> F | None:
        """Give what is known of one child of a service, if it is there and is the service's."""
        seen = self.cache.children.get(Ref(kind, service.namespace, name))
        return seen.facts if seen and seen.owner == service.uid and isinstance(seen.facts, of) else None

    def fetching(self, service: ZImageService, choice: Choice, reports: Mapping[str, FetchReport]) -> Fetching:
        """Collect what is known of a service's models."""
        asked = weights(service)
        jobs = [seen.facts for seen in self.jobs(service).values() if isinstance(seen.facts, JobFacts)]
        # While one is being replaced there may be two: the younger is the one that was made last.
        own = sorted((job for job in jobs if job.weights == asked), key=lambda job: (job.created, job.name))
        job = own[-1] if own else None
        pods = self.cache.fetchers((service.namespace, service.name))
        return Fetching(
            choice,
            job,
            pods=tuple(pod for pod in pods if job and pod.job == job.uid),
            claim=self.claim(service),
            reports=reports,
            running=sum(pod.phase not in ENDED for pod in pods),
        )

    async def delete(self, target: Ref, uid: str) -> None:
        """Delete one object, if it is still the very one that we saw."""
        path = BY_NAME[target.kind].path(target.namespace, target.name)
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self.api.request("DELETE", path, kind=target.kind, body=body)
        except Denied as error:
            if error.code != 404:
                raise translate(error, target) from error
        if target in self.cache.children and self.cache.children[target].uid == uid:
            self.cache.forget(target)
        self.forget(target)
        metrics.PRUNED.labels(target.kind).inc()

    def forget(self, target: Ref) -> None:
        """Forget what was remembered about an object that is no longer wanted."""
        for memory in (self.cache.applied, self.repaired, self.conceded):
            memory.pop(target, None)
        self.taken.discard(target)

    async def revision(self, service: ZImageService, status: Mapping[str, Any]) -> str:
        """Give the revision of the template that workers run with; "" where there is none.

        Without its label the watch does not show the Deployment: where the status knows of a
        template it is looked for by name.
        """
        target = Ref("Deployment", service.namespace, service.name)
        seen = self.cache.children.get(target)
        if seen is None and status.get("templateRevision"):
            try:
                seen = await self.find(service, target)
            except NotOwned:
                return ""
        facts = seen.facts if seen and seen.owner == service.uid else None
        return facts.revision if isinstance(facts, DeploymentFacts) else ""

    def observe(
        self,
        service: ZImageService,
        refused: tuple[Refused, ...],
        reports: dict[str, Report],
        *,
        probing: bool,
        clients: tuple[str, ...] | None,
        blind: bool,
        edge: EdgeReport | None,
        exposure: Exposure,
        outdated: bool,
        entrance: Entrance,
        choice: Choice,
        fetches: Mapping[str, FetchReport],
    ) -> Observed:
        """Collect the facts about a service as they are known now."""
        key: Key = (service.namespace, service.name)
        ours = {target: seen for target, seen in self.cache.of(key).items() if seen.owner == service.uid}
        verdicts = {target: seen.facts for target, seen in ours.items() if isinstance(seen.facts, Verdict)}
        return Observed(
            existing=frozenset(ours),
            deployment=self.deployed(service),
            pods=self.cache.pods(key),
            receipt=self.receipt(service),
            reports=reports,
            entrance=entrance,
            verdicts=dict(sorted(verdicts.items(), key=lambda pair: pair[0])),
            refused=refused,
            probing=probing,
            clients=clients,
            blind=blind,
            edge=edge,
            exposure=exposure,
            outdated=outdated,
            fetching=self.fetching(service, choice, fetches),
        )

    def serves(self, kind: str) -> bool:
        """Whether the cluster knows an optional kind."""
        return kind in self.cache.served

    def clients(self, service: ZImageService) -> tuple[str, ...] | None:
        """Name the namespaces that are let in now; None where labels decide and nobody can look."""
        labels = service.spec.network.allowed_namespace_labels
        return self.cache.namespaces.carrying(labels) if labels else service.spec.network.client_namespaces

    def surroundings(self, service: ZImageService) -> Surroundings:
        """Give what the exposure audit looks at."""
        host = service.spec.routed.host if service.spec.routed else ""
        return self.cache.surroundings((service.namespace, service.name), host)

    def receipt(self, service: ZImageService) -> ReceiptFacts | None:
        """Give what is known of the generated credentials, if there are any."""
        seen = self.cache.children.get(Ref("ConfigMap", service.namespace, f"{service.name}-{RECEIPT}"))
        return seen.facts if seen and isinstance(seen.facts, ReceiptFacts) else None

    def entrance(self, service: ZImageService) -> Entrance:
        """Give what is known of the IngressClass or Gateway that the service names."""
        return self.cache.entrances.entrance(service)

    async def apply_status(self, body: Any, status: Manifest) -> bool:
        """Write the status, if it says anything new; only to this very resource. Whether it was written."""
        if body.get("status") == status:
            return False
        head = body["metadata"]
        item = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": head["name"], "namespace": head["namespace"], "uid": head["uid"]},
            "status": status,
        }
        path = SERVICES.path(head["namespace"], head["name"]) + "/status"
        query = {"fieldManager": STATUS_MANAGER, "force": "true"}
        try:
            live = await self.api.request("PATCH", path, kind=KIND, query=query, body=item, content_type=MERGE_APPLY)
        except Denied as error:
            if error.code == 404:
                return False  # deleted meanwhile: nobody is left to tell
            raise translate(error, Ref(KIND, head["namespace"], head["name"])) from error
        if live.get("status") != status:
            live = await self.replace_status(path, head["uid"], status)
        concerned = self.cache.observe(KIND, live)
        if live["metadata"]["generation"] != head["generation"]:
            # The spec was changed after `body` was read, and before this write. The answer has it, so the stream's
            # own word of it is an old one when it comes, and concerns nobody any more.
            for key in concerned:
                self.later(key, 0.0)
        metrics.STATUS_WRITES.inc()
        return True

    async def replace_status(self, path: str, uid: str, status: Manifest) -> Manifest:
        """Write the status as a whole: an apply leaves standing what somebody else wrote beside it."""
        steps = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        query = {"fieldManager": STATUS_MANAGER}
        try:
            live: Manifest = await self.api.request(
                "PATCH", path, kind=KIND, query=query, body=steps, content_type=JSON_PATCH
            )
        except Denied as error:
            # Deleted, or another of the same name, since we looked: the next event tells.
            raise Conflict(str(error)) from error
        return live


def stamp(item: Manifest) -> str:
    """Give the digest that `stamped` wrote."""
    return str(item["metadata"]["annotations"][HASH_ANNOTATION])


def not_owned(target: Ref) -> NotOwned:
    """Say that the name is taken."""
    return NotOwned(
        target.kind,
        target.name,
        f"{target.kind} {target.name} exists and does not belong to this ZImageService: "
        f"rename or delete it (kubectl -n {target.namespace} get {target.kind.lower()} {target.name} -o yaml)",
    )


def translate(error: Denied, target: Ref) -> Exception:
    """Turn a 4xx into the type that decides what happens next."""
    if error.code == 403 and "NamespaceTerminating" in error.causes:
        return NamespaceTerminating(target.namespace)
    if error.code == 404 and BY_NAME[target.kind].optional:
        group = BY_NAME[target.kind].group
        text = f"this cluster does not serve {target.kind}.{group}"
        if target.kind == "ResourceClaimTemplate":
            advice = "gpu.deviceClassName needs Kubernetes 1.34 or newer, write gpu.resourceName instead"
            return ClaimsMissing(target.kind, target.name, f"{text}: {advice}")
        advice = f"install it: {INSTALL[group]}"
        if target.kind == "PodMonitor":
            return MonitoringMissing(target.kind, target.name, f"{text}: {advice}, or remove monitoring.podMonitor")
        if target.kind == "Certificate":
            return CertManagerMissing(target.kind, target.name, f"{text}: {advice}, or write ingress.tls.secretName")
        return KindMissing(target.kind, target.name, f"{text}: {advice}")
    if error.code == 404:
        return NamespaceTerminating(target.namespace)
    # As a word: a name that holds it, such as druid's, says nothing about whose object it is.
    if error.code in (409, 422) and re.search(r"\buid\b", str(error)):
        return Conflict(str(error))
    return Rejected(target.kind, target.name, f"{target.kind} {target.name} was refused: {error}", error.code)
