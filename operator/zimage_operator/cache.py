"""What was last seen, as small projections. Every write of ours is put in at once.

A Deployment is 16 KiB as a dictionary, 3 KiB as text and 1 KiB as what we keep of it; a body
stays only until it was compared with what is wanted, and a standby compares nothing. Used from
the event loop alone: no locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from .entrances import Entrances, named
from .exposure import Claim, Surroundings
from .kinds import ENTRANCES, NAMESPACES
from .manifest import Key, Ref
from .names import HASH_ANNOTATION, KIND, LABEL_INSTANCE, LABEL_MANAGED_BY, MANAGER, labels
from .namespaces import Labels, Namespaces, asked, carries
from .neighbourhood import Neighbourhood
from .neighbours import controller, is_stranger
from .observed import Facts, PodFacts, owner_uid, read

ENTRANCE_KINDS = frozenset(kind.name for kind in ENTRANCES)
# So many that are gone are remembered, the longest gone forgotten first: far more than answers can be under way.
BURIED_MAX = 5_000


@dataclass(slots=True)
class Seen:
    """A child as it was last seen."""

    uid: str
    version: int
    owner: str
    key: Key
    # The digest of the intent that the object carries; anybody may have written it.
    stamp: str
    facts: Facts | None
    # `pack`ed and kept until verified; None: nothing has changed since the last comparison.
    body: bytes | None
    # 0 where a kind has none.
    generation: int = 0

    def live(self) -> Mapping[str, Any]:
        """Give the body that is still to be compared; only where there is one."""
        assert self.body is not None
        return dict(orjson.loads(self.body))


class Cache:
    """The only place that remembers the cluster."""

    def __init__(self) -> None:
        self.services: dict[Key, Mapping[str, Any]] = {}
        self.children: dict[Ref, Seen] = {}
        # The same once more, by the service that they are of.
        self.by_key: dict[Key, dict[Ref, Seen]] = {}
        self.entrances = Entrances()
        self.namespaces = Namespaces()
        # The optional kinds that the cluster knows now.
        self.served: set[str] = set()
        self.neighbourhood = Neighbourhood()
        # Digest of the intent that this process applied last: unlike the annotation it cannot be forged.
        self.applied: dict[Ref, str] = {}
        # The resource version at which a uid was seen to go: the answer to a write of ours may come in after that.
        self.buried: dict[str, int] = {}

    def bury(self, uid: str, at: int) -> None:
        """Note that an object is gone. One that only lost its label comes back as a later version."""
        self.buried[uid] = at
        if len(self.buried) > BURIED_MAX:
            del self.buried[next(iter(self.buried))]

    def observe(
        self, kind: str, item: Mapping[str, Any], *, deleted: bool = False, verified: bool = False
    ) -> list[Key]:
        """Take in one object; give the services that it concerns.

        An echo of our own write, or an event that comes late, concerns nobody: resource
        versions of one kind can be compared (KEP-5504). `verified`: it need not be compared
        with what is wanted any more.
        """
        uid = item["metadata"]["uid"]
        if deleted:
            self.bury(uid, version(item))
        elif version(item) <= self.buried.get(uid, -1):
            return []
        if kind == KIND:
            return self.observe_service(item, deleted=deleted)
        if kind in ENTRANCE_KINDS:
            changed = self.entrances.observe(kind, item, deleted=deleted)
            return [key for key, body in self.services.items() if changed and named(body) in changed]
        if kind == NAMESPACES.name:
            return self.admitting(*self.namespaces.observe(item, deleted=deleted))
        concerned = self.neighbourhood.observe(kind, item, deleted=deleted)
        return list({*concerned, *self.observe_child(kind, item, deleted=deleted, verified=verified)})

    def admitting(self, before: Labels | None, after: Labels | None) -> list[Key]:
        """Give the services that let a namespace in by one set of its labels and not by the other."""
        if before == after:
            return []
        wanted = ((key, asked(body)) for key, body in self.services.items())
        return [key for key, labels in wanted if labels and carries(before, labels) != carries(after, labels)]

    def observe_service(self, item: Mapping[str, Any], *, deleted: bool) -> list[Key]:
        """Take in a resource."""
        head = item["metadata"]
        key = (head["namespace"], head["name"])
        old = self.services.get(key)
        if deleted:
            if old is None or old["metadata"]["uid"] == head["uid"]:
                self.services.pop(key, None)
            return [key, *self.claim(key, old, self.services.get(key))]
        if old and old["metadata"]["uid"] == head["uid"] and version(old) >= version(item):
            return []
        self.services[key] = {**item, "metadata": {k: v for k, v in head.items() if k != "managedFields"}}
        return [key, *self.claim(key, old, item)]

    def claim(self, key: Key, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> set[Key]:
        """Note the host that a service asks for; give its rivals where that has changed."""
        before, after = (None if body is None else host(body) for body in (old, new))
        return self.neighbourhood.claim(key, before, after)

    def observe_child(self, kind: str, item: Mapping[str, Any], *, deleted: bool, verified: bool) -> list[Key]:
        """Take in a child or a pod."""
        head = item["metadata"]
        ref = Ref(kind, head["namespace"], head["name"])
        key = (ref.namespace, service_name(item))
        old = self.children.get(ref)
        if old and old.uid == head["uid"] and old.version >= version(item) and not deleted:
            return []
        if deleted or not is_child(kind, item):
            if old is None or old.uid != head["uid"]:
                return []
            self.forget(ref)
            return [old.key]
        facts = read(kind, item)
        changed = old is None or kind != "Pod" or old.facts != facts
        # Who changed what is asked only of what this process has applied itself.
        body = None if verified or kind == "Pod" else pack(item, whole=ref in self.applied)
        stamp = (head.get("annotations") or {}).get(HASH_ANNOTATION, "")
        if old:
            self.by_key.get(old.key, {}).pop(ref, None)
            self.move_out(old)
        generation = head.get("generation", 0)
        seen = Seen(head["uid"], version(item), owner_uid(item), key, stamp, facts, body, generation)
        self.children[ref] = self.by_key.setdefault(key, {})[ref] = seen
        if isinstance(facts, PodFacts) and facts.ip:
            self.neighbourhood.workers[facts.ip] = key
        # Another owner or, without one, another label moves the child: the service that lost it has to look.
        keys = {key, old.key} if old else {key}
        return list(keys) if changed else []

    def is_progress(self, kind: str, item: Mapping[str, Any]) -> bool:
        """Whether an event, not taken in yet, tells only how far a workload is: what is wanted was not touched."""
        head = item["metadata"]
        seen = self.children.get(Ref(kind, head.get("namespace", ""), head["name"]))
        return kind == "Pod" or bool(seen and seen.generation and seen.generation == head.get("generation"))

    def newest(self, kind: str) -> int:
        """Give the latest resource version of a kind that was taken in; 0 where there is none."""
        bodies = self.services.values() if kind == KIND else ()
        seen = (seen.version for ref, seen in self.children.items() if ref.kind == kind)
        around = (one.version for ref, one in self.neighbourhood.neighbours.items() if ref.kind == kind)
        spaces = (one.version for one in self.namespaces.seen.values() if kind == NAMESPACES.name)
        return max((*map(version, bodies), *seen, *around, *spaces), default=0)

    def forget(self, ref: Ref) -> None:
        """Drop what is no longer there."""
        gone = self.children.pop(ref)
        refs = self.by_key.get(gone.key, {})
        refs.pop(ref, None)
        if not refs:
            self.by_key.pop(gone.key, None)
        self.move_out(gone)

    def move_out(self, gone: Seen) -> None:
        """A pod has its address no more; another of the service may have got it before we heard of that."""
        facts = gone.facts
        if isinstance(facts, PodFacts) and all(pod.ip != facts.ip for pod in self.pods(gone.key)):
            self.neighbourhood.workers.pop(facts.ip, None)

    def of(self, key: Key) -> Mapping[Ref, Seen]:
        """Give every child and pod of one service, in no order."""
        return self.by_key.get(key, {})

    def pods(self, key: Key) -> tuple[PodFacts, ...]:
        """Give the worker pods of one service, in a stable order."""
        found = (seen.facts for seen in self.of(key).values() if isinstance(seen.facts, PodFacts))
        return tuple(sorted((pod for pod in found if not pod.job), key=lambda pod: pod.name))

    def fetchers(self, key: Key) -> tuple[PodFacts, ...]:
        """Give the pods of one service's download Jobs, the youngest last."""
        found = (seen.facts for seen in self.of(key).values() if isinstance(seen.facts, PodFacts))
        return tuple(sorted((pod for pod in found if pod.job), key=lambda pod: (pod.created, pod.name)))

    def sweep(self, kind: str, alive: Iterable[str], up_to: int, namespace: str = "") -> list[Key]:
        """Forget what a full list of a kind no longer holds; give the services concerned.

        Deletions that fall into a gap of the watch are never reported by it. `up_to` is the
        list's resource version: what was seen later is not judged by it.
        """
        uids = set(alive)
        if kind == KIND:
            gone = [key for key, body in self.services.items() if lost(body, uids, up_to, namespace)]
            rivals: set[Key] = set()
            for key in gone:
                self.bury(self.services[key]["metadata"]["uid"], up_to)
                rivals |= self.claim(key, self.services.pop(key), None)
            return [*gone, *rivals]
        if kind == NAMESPACES.name:
            return [key for labels in self.namespaces.sweep(uids, up_to) for key in self.admitting(labels, None)]
        concerned = self.neighbourhood.sweep(kind, uids, up_to, namespace)
        missing = [
            ref
            for ref, seen in self.children.items()
            if ref.kind == kind and seen.uid not in uids and seen.version <= up_to and namespace in ("", ref.namespace)
        ]
        keys = [self.children[ref].key for ref in missing]
        for ref in missing:
            self.bury(self.children[ref].uid, up_to)
            self.forget(ref)
        return [*keys, *concerned]

    def surroundings(self, key: Key, host: str) -> Surroundings:
        """Give everything of others that could open a service, or claims its host."""
        around, body = self.neighbourhood, self.services.get(key)
        base, workers = labels(key[1]), self.pods(key)
        return Surroundings(
            claim=claim(key, body),
            near=around.near(key[0]),
            on_host=around.on_host(host) if host else (),
            claims=tuple(
                sorted(claim(other, self.services.get(other)) for other in around.claims.get(host, ()) if host)
            ),
            labels=tuple({**base, **dict(pod.extra_labels)} for pod in workers) or (base,),
            slices=around.at_addresses(pod.ip for pod in workers if pod.ip),
        )


def pack(item: Mapping[str, Any], *, whole: bool) -> bytes:
    """Write down what is compared of an object; `whole`: and who holds which field."""
    head = item["metadata"] if whole else {k: v for k, v in item["metadata"].items() if k != "managedFields"}
    return orjson.dumps({**{k: v for k, v in item.items() if k != "status"}, "metadata": head})


def version(item: Mapping[str, Any]) -> int:
    """Give an object's resource version as the number that it is."""
    return int(item["metadata"]["resourceVersion"])


def lost(body: Mapping[str, Any], uids: set[str], up_to: int, namespace: str) -> bool:
    head = body["metadata"]
    return head["uid"] not in uids and version(body) <= up_to and namespace in ("", head["namespace"])


def is_child(kind: str, item: Mapping[str, Any]) -> bool:
    """Whether an object is kept as a child: by its label or its controller. A stranger's pod never is."""
    labelled = (item["metadata"].get("labels") or {}).get(LABEL_MANAGED_BY) == MANAGER
    return (labelled or bool(owner_uid(item))) and not (kind == "Pod" and is_stranger(item))


def service_name(item: Mapping[str, Any]) -> str:
    """Give the name of the service that an object is of: its controller's, else by its label.

    A label that was edited by hand must not make the child one of a service that does not exist:
    what is known of it would be forgotten, and nobody told who did it.
    """
    owner = controller(item)
    label = (item["metadata"].get("labels") or {}).get(LABEL_INSTANCE, "")
    return str(owner["name"] if owner.get("kind") == KIND else label)


def host(body: Mapping[str, Any]) -> str:
    """Give the host that a raw resource asks for; one that is not published for now asks for none."""
    spec = body.get("spec") or {}
    way = spec.get("ingress") or spec.get("gateway") or {}
    return str(way.get("host") or "") if way.get("enabled", True) else ""


def claim(key: Key, body: Mapping[str, Any] | None) -> Claim:
    """Give the claim of a service to its host; one that has just gone is the youngest."""
    return Claim(str(((body or {}).get("metadata") or {}).get("creationTimestamp", "~")), *key)
