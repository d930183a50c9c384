"""What is remembered of the objects of others: by name, by the namespace they reach, by host, by address."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from .manifest import Key, Ref
from .neighbours import Neighbour, RouteFacts, ServiceFacts, addresses, could_select, hosts, places, read


class Neighbourhood:
    """Keeps what could open a service, and who claims which host."""

    def __init__(self) -> None:
        self.neighbours: dict[Ref, Neighbour] = {}
        self.by_place: defaultdict[str, set[Ref]] = defaultdict(set)
        self.by_host: defaultdict[str, set[Ref]] = defaultdict(set)
        self.by_address: defaultdict[str, set[Ref]] = defaultdict(set)
        # Which service's worker has an address.
        self.workers: dict[str, Key] = {}
        # The services themselves: by namespace, and by the host that they ask for.
        self.names: defaultdict[str, set[str]] = defaultdict(set)
        self.claims: defaultdict[str, set[Key]] = defaultdict(set)

    def observe(self, kind: str, item: Mapping[str, Any], *, deleted: bool) -> set[Key]:
        """Take in one object; give the services that are concerned, before or after."""
        head = item["metadata"]
        ref = Ref(kind, head["namespace"], head["name"])
        old = self.neighbours.get(ref)
        if old and (old.uid != head["uid"] if deleted else is_late(old, head)):
            return set()
        facts = None if deleted else read(kind, item)
        if old is None and facts is None:
            return set()
        concerned = self.forget(ref) if old else set()
        if deleted:
            return concerned
        # Kept as harmless too, so that a late event does not bring the hole back.
        new = Neighbour(ref, head["uid"], int(head["resourceVersion"]), facts)
        self.neighbours[ref] = new
        for place in places(new):
            self.by_place[place].add(ref)
        for host in hosts(new):
            self.by_host[host].add(ref)
        for address in addresses(new):
            self.by_address[address].add(ref)
        return set() if old and old.facts == facts else concerned | self.concerned(new)

    def forget(self, ref: Ref) -> set[Key]:
        """Drop one object; give the services that it concerned."""
        old = self.neighbours[ref]
        concerned = self.concerned(old)
        del self.neighbours[ref]
        for place in places(old):
            discard(self.by_place, place, ref)
        for host in hosts(old):
            discard(self.by_host, host, ref)
        for address in addresses(old):
            discard(self.by_address, address, ref)
        return concerned

    def concerned(self, neighbour: Neighbour) -> set[Key]:
        """Give the services that an object can mean something for."""
        if neighbour.facts is None:
            return set()
        keys = {key for host in hosts(neighbour) for key in self.claims.get(host, ())}
        keys |= {self.workers[address] for address in addresses(neighbour) if address in self.workers}
        for place in places(neighbour):
            found = {name for name in self.names.get(place, ()) if could_select(neighbour.facts, name)}
            if isinstance(neighbour.facts, RouteFacts):
                found = self.behind(place, neighbour.facts, found)
            keys |= {(place, name) for name in found}
        return keys

    def behind(self, place: str, facts: RouteFacts, names: set[str]) -> set[str]:
        """Give the services that a route leads to, by their own Service or by one of somebody else."""
        targets = {name for namespace, name in facts.backends if namespace == place}
        others = [self.neighbours.get(Ref("Service", place, target)) for target in targets - names]
        selectors = [other.facts for other in others if other and isinstance(other.facts, ServiceFacts)]
        return {name for name in names if name in targets or any(could_select(one, name) for one in selectors)}

    def near(self, namespace: str) -> tuple[Neighbour, ...]:
        """Give what reaches a namespace, in a stable order."""
        return tuple(self.neighbours[ref] for ref in sorted(self.by_place.get(namespace, ())))

    def on_host(self, host: str) -> tuple[Neighbour, ...]:
        """Give the routes of others that claim a host."""
        return tuple(self.neighbours[ref] for ref in sorted(self.by_host.get(host, ())))

    def at_addresses(self, wanted: Iterable[str]) -> tuple[Neighbour, ...]:
        """Give what sends requests to some addresses."""
        found = set().union(*(self.by_address.get(address, ()) for address in wanted))
        return tuple(self.neighbours[ref] for ref in sorted(found))

    def sweep(self, kind: str, alive: set[str], up_to: int, namespace: str) -> set[Key]:
        """Forget what a full list of a kind no longer holds."""
        gone = [
            ref
            for ref, one in self.neighbours.items()
            if ref.kind == kind and one.uid not in alive and one.version <= up_to and namespace in ("", ref.namespace)
        ]
        return set().union(*[self.forget(ref) for ref in gone])

    def claim(self, key: Key, before: str | None, after: str | None) -> set[Key]:
        """A service appears (before None), asks for another host, or goes (after None); give its rivals."""
        if before == after:
            return set()
        if before is not None:
            discard(self.claims, before, key)
        if after is None:
            discard(self.names, key[0], key[1])
        else:
            self.names[key[0]].add(key[1])
            self.claims[after].add(key)
        rivals = {rival for host in (before, after) if host for rival in self.claims.get(host, ())}
        return rivals - {key}


def is_late(old: Neighbour, head: Mapping[str, Any]) -> bool:
    """Whether an event tells of a state that was left behind already."""
    return old.uid == head["uid"] and old.version >= int(head["resourceVersion"])


def discard(index: defaultdict[str, set[Any]], at: str, item: Any) -> None:
    """Take one entry out of an index, and the place with the last of them."""
    found = index.get(at, set())
    found.discard(item)
    if not found:
        index.pop(at, None)
