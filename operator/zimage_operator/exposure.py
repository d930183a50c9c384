"""What else opens a service than what its resource declares; pure.

NetworkPolicies add up, so another one can only widen: each of its rules is held against those
of our own policy. Services, routes and pods of others are judged by whom they select.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from .manifest import Manifest, Ref, ref
from .names import KIND, selector_labels
from .neighbours import PORTS, Neighbour, PodTraits, PolicyFacts, RouteFacts, ServiceFacts, SliceFacts
from .policies import matches, opens_ingress, widens_egress
from .spec import ZImageService

# The order in which holes are told: what opens most comes first.
HOST_NETWORK, FOREIGN_POD = "HostNetworkPod", "ForeignPod"
WIDENS, SERVICE, ROUTE, CONFLICT = "OtherPolicyWidens", "ExtraService", "ExtraRoute", "HostConflict"
ORDER = (HOST_NETWORK, FOREIGN_POD, WIDENS, SERVICE, ROUTE, CONFLICT)


@dataclass(frozen=True, order=True, slots=True)
class Hole:
    """One object that opens more than was declared, and what to do about it."""

    reason: str
    ref: Ref
    message: str


@dataclass(frozen=True)
class Exposure:
    """What opens a service beside its declaration. `rival`: who has the better claim to its host."""

    holes: tuple[Hole, ...] = ()
    rival: Hole | None = None


@dataclass(frozen=True, order=True, slots=True)
class Claim:
    """A ZImageService that asks for the host; the oldest has it, and among twins the first by name."""

    created: str
    namespace: str
    name: str


@dataclass(frozen=True)
class Surroundings:
    """What the audit looks at: everything that reaches the service or claims its host."""

    claim: Claim
    near: tuple[Neighbour, ...]
    on_host: tuple[Neighbour, ...]
    claims: tuple[Claim, ...]
    # The labels that the workers carry, injected ones included.
    labels: tuple[Mapping[str, str], ...]
    # EndpointSlices of others with an address of a worker among theirs.
    slices: tuple[Neighbour, ...] = ()


def audit(service: ZImageService, desired: Collection[Manifest], around: Surroundings) -> Exposure:
    """Hold the surroundings against what the resource declares: its policy is among the desired children."""
    policy = next(item for item in desired if ref(item) == Ref("NetworkPolicy", service.namespace, service.name))
    found = [*pods(service, around), *policies(policy, around), *extra_services(around), *routes(service, around)]
    found += extra_slices(service, around)
    known = {hole.ref for hole in found}
    conflicts = [*claimed_twice(service, around), *foreign_hosts(service, around)]
    younger = [hole for created, hole in conflicts if created > around.claim.created and hole.ref not in known]
    older = sorted((pair for pair in conflicts if pair[0] <= around.claim.created), key=lambda pair: pair[0])
    holes = sorted([*found, *younger], key=lambda hole: (ORDER.index(hole.reason), hole.ref))
    return Exposure(tuple(holes), older[0][1] if older else None)


def pods(service: ZImageService, around: Surroundings) -> Iterator[Hole]:
    """Find pods that get this service's requests, or that no policy can protect."""
    wanted = selector_labels(service.name).items()
    for one in around.near:
        facts = one.facts
        if not isinstance(facts, PodTraits) or not wanted <= facts.labels.items():
            continue
        show = f"kubectl -n {service.namespace} delete pod {one.ref.name}"
        if facts.host_network:
            text = "matches the workers' selector on the node's own network, where no NetworkPolicy holds"
            yield Hole(HOST_NETWORK, one.ref, f"Pod {one.ref.name} {text}: remove hostNetwork, or {show}")
        elif facts.stranger:
            text = "carries the workers' labels without being one of them, and gets requests of this service"
            yield Hole(FOREIGN_POD, one.ref, f"Pod {one.ref.name} {text}: take the labels off, or {show}")


def policies(policy: Manifest, around: Surroundings) -> Iterator[Hole]:
    """Find NetworkPolicies that admit more than ours does."""
    ours, own = policy["spec"], policy["metadata"]["namespace"]
    for one in around.near:
        facts = one.facts
        if not isinstance(facts, PolicyFacts) or not any(matches(facts.selector, labels) for labels in around.labels):
            continue
        opened = opens_ingress(ours["ingress"], facts.ingress, PORTS, own)
        told = [f"admits more than spec.network does to port {' and '.join(map(str, opened))}"] if opened else []
        told += ["lets them connect out"] if widens_egress(ours["egress"], facts.egress, own) else []
        if told:
            advice = f"narrow its podSelector, or kubectl -n {own} delete networkpolicy {one.ref.name}"
            text = f"NetworkPolicy {one.ref.name} selects the workers and {' and '.join(told)}: {advice}"
            yield Hole(WIDENS, one.ref, text)


def selecting(around: Surroundings) -> Iterator[tuple[Neighbour, ServiceFacts]]:
    """Give the Services of others that select our workers."""
    for one in around.near:
        facts = one.facts
        if isinstance(facts, ServiceFacts) and any(set(facts.selector) <= set(mine.items()) for mine in around.labels):
            yield one, facts


def extra_services(around: Surroundings) -> Iterator[Hole]:
    """Find Services that publish the workers outside the cluster."""
    for one, facts in selecting(around):
        edit = f"kubectl -n {one.ref.namespace} edit service {one.ref.name}"
        if facts.type != "ClusterIP":
            text = f"Service {one.ref.name} of type {facts.type} publishes the workers past the edge"
            yield Hole(SERVICE, one.ref, f"{text}: change its selector or make it ClusterIP ({edit})")
        elif facts.external:
            text = f"Service {one.ref.name} publishes the workers on external addresses"
            yield Hole(SERVICE, one.ref, f"{text}: remove its spec.externalIPs ({edit})")


def extra_slices(service: ZImageService, around: Surroundings) -> Iterator[Hole]:
    """Find EndpointSlices that lead to the workers' addresses past every selector."""
    for one in around.slices:
        if isinstance(one.facts, SliceFacts):
            text = f"{called(one.ref, service)} sends the requests of Service {one.facts.service or '?'} to the workers"
            show = f"kubectl -n {one.ref.namespace} delete endpointslice {one.ref.name}"
            yield Hole(SERVICE, one.ref, f"{text} by their addresses: {show} (or the Endpoints that it mirrors)")


def routes(service: ZImageService, around: Surroundings) -> Iterator[Hole]:
    """Find routes of others to our Service, or to a Service that selects our workers."""
    targets = {(service.namespace, service.name), *((one.ref.namespace, one.ref.name) for one, _ in selecting(around))}
    for one in around.near:
        if isinstance(one.facts, RouteFacts) and (hit := sorted(one.facts.backends & targets)):
            text = f"{called(one.ref, service)} also leads to the workers, by Service {hit[0][1]}, past this resource"
            yield Hole(ROUTE, one.ref, f"{text}: {removal(one.ref)}")


Conflict = tuple[str, Hole]


def claimed_twice(service: ZImageService, around: Surroundings) -> Iterator[Conflict]:
    """Find other ZImageServices that ask for our host; the text is for the one that it is shown to."""
    mine, host = around.claim, host_of(service)
    for claim in around.claims:
        other = Ref(KIND, claim.namespace, claim.name)
        if claim == mine:
            continue
        # Twins of one second are told apart by name: then one of them, and the same one everywhere, is older.
        if claim < mine:
            yield mine.created, Hole(CONFLICT, other, taken(host, other, service))
        else:
            text = f"{called(other, service)} asks for {host} too; it is younger and gets no route"
            yield LATER, Hole(CONFLICT, other, f"{text}: its host has to be another one")


# Sorts behind every time that the API server writes.
LATER = "~"


def foreign_hosts(service: ZImageService, around: Surroundings) -> Iterator[Conflict]:
    """Find routes of others that claim our host."""
    for one in around.on_host:
        if isinstance(one.facts, RouteFacts):
            host, late = host_of(service), one.facts.created > around.claim.created
            text = f"{called(one.ref, service)} claims {host} too and may take its requests: {removal(one.ref)}"
            yield one.facts.created, Hole(CONFLICT, one.ref, text if late else taken(host, one.ref, service))


def host_of(service: ZImageService) -> str:
    """Give the host that a service asks for; empty if none."""
    return service.spec.routed.host if service.spec.routed else ""


def taken(host: str, target: Ref, service: ZImageService) -> str:
    """Say that somebody else has the better claim."""
    advice = "choose another host, or have it removed there"
    return f"host {host} belongs to {called(target, service)}, which is older: {advice}"


def called(target: Ref, service: ZImageService) -> str:
    """Name an object: with its namespace where that is another one."""
    place = "" if target.namespace == service.namespace else f"{target.namespace}/"
    return f"{target.kind} {place}{target.name}"


def removal(target: Ref) -> str:
    """Say how to look at a route and mend it."""
    return f"change or delete it (kubectl -n {target.namespace} edit {target.kind.lower()} {target.name})"
