"""Objects of others that could open a service: what is kept of them, and how it is read; pure.

Every NetworkPolicy, Service and route of the cluster passes through here, so a fact is small,
and whatever can concern no service at all is not kept (`read` gives None).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .manifest import Ref
from .names import (
    GROUP,
    HTTP_PORT,
    HTTP_PORT_NAME,
    KIND,
    LABEL_INSTANCE,
    MANAGEMENT_PORT,
    MANAGEMENT_PORT_NAME,
    SIGN_IN,
    selector_labels,
)

Raw = Mapping[str, Any]
# Namespace and name of a Service.
Target = tuple[str, str]

# Selector labels that are the same on the workers of every service.
COMMON = {key: value for key, value in selector_labels("").items() if key != LABEL_INSTANCE}
PORTS = {HTTP_PORT: HTTP_PORT_NAME, MANAGEMENT_PORT: MANAGEMENT_PORT_NAME}
TEMPLATE_HASH = "pod-template-hash"
# cert-manager answers ACME challenges by an Ingress of its own on the same host, for a minute.
ACME = "/.well-known/acme-challenge/"
# Which Service an EndpointSlice belongs to.
LABEL_SERVICE = "kubernetes.io/service-name"
ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """A NetworkPolicy that lets something pass."""

    selector: Raw
    ingress: tuple[Raw, ...]
    egress: tuple[Raw, ...]


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """A Service that selects pods. `external`: it has externalIPs."""

    selector: tuple[tuple[str, str], ...]
    type: str
    external: bool


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """An Ingress or another route: the hosts that it claims, and the Services behind it."""

    hosts: frozenset[str]
    backends: frozenset[Target]
    created: str


@dataclass(frozen=True, slots=True)
class PodTraits:
    """A pod with the labels of a worker that is not one (`stranger`), or that no policy protects."""

    labels: Mapping[str, str]
    stranger: bool
    host_network: bool


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """An EndpointSlice that follows no selector: the Service that it belongs to, and where its requests go."""

    service: str
    addresses: frozenset[str]


Facts = PolicyFacts | ServiceFacts | RouteFacts | PodTraits | SliceFacts


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One object of somebody else; `facts` None: it had some, and is harmless now."""

    ref: Ref
    uid: str
    version: int
    facts: Facts | None


def read(kind: str, item: Raw) -> Facts | None:
    """Read what an object could mean for any service; None where it can mean nothing."""
    reader = READERS.get(kind)
    return reader(item) if reader else None


def is_own(item: Raw, *parts: str) -> bool:
    """Whether this is the object that a ZImageService has made under its own name, or under NAME-part.

    By name and controller: another object that claims to be ours is none of these, and is pruned.
    """
    owner = controller(item)
    ours = owner.get("kind") == KIND and str(owner.get("apiVersion")).startswith(f"{GROUP}/")
    names = {owner.get("name"), *(f"{owner.get('name')}-{part}" for part in parts)}
    return ours and item["metadata"]["name"] in names


def controller(item: Raw) -> Raw:
    """Give the owner that controls an object; empty if nobody does."""
    owners = item["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})


def read_policy(item: Raw) -> PolicyFacts | None:
    """Read a NetworkPolicy: policies add up, so only what it lets pass matters."""
    spec = item.get("spec") or {}
    ingress, egress = tuple(spec.get("ingress") or ()), tuple(spec.get("egress") or ())
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if egress else [])]
    selector = spec.get("podSelector") or {}
    facts = PolicyFacts(selector, ingress if "Ingress" in types else (), egress if "Egress" in types else ())
    harmless = not (facts.ingress or facts.egress) or is_own(item) or contradicts(selector.get("matchLabels") or {})
    return None if harmless else facts


def contradicts(wanted: Mapping[str, str]) -> bool:
    """Whether a selector can match no worker of any service."""
    return any(key in COMMON and COMMON[key] != value for key, value in wanted.items())


def read_service(item: Raw) -> ServiceFacts | None:
    """Read a Service; our own too, where somebody has given it external addresses."""
    spec = item.get("spec") or {}
    selector, external = spec.get("selector") or {}, bool(spec.get("externalIPs"))
    kind = spec.get("type") or "ClusterIP"
    inside = kind == "ClusterIP" and not external
    if not selector or kind == "ExternalName" or contradicts(selector) or (inside and is_own(item)):
        return None
    return ServiceFacts(tuple(sorted(selector.items())), kind, external)


def read_ingress(item: Raw) -> RouteFacts | None:
    """Read an Ingress."""
    spec, place = item.get("spec") or {}, item["metadata"]["namespace"]
    hosts, backends = set(), [spec.get("defaultBackend") or {}]
    for rule in spec.get("rules") or ():
        paths = [path for path in (rule.get("http") or {}).get("paths") or () if not is_acme(path)]
        backends += [path.get("backend") or {} for path in paths]
        hosts |= {rule.get("host") or ""} if paths or not rule.get("http") else set()
    names = [(backend.get("service") or {}).get("name") for backend in backends]
    return route(item, hosts, {(place, name) for name in names if name})


def is_acme(path: Raw) -> bool:
    """Whether a path answers a certificate authority's challenge."""
    return str(path.get("path") or "").startswith(ACME)


def read_gateway_route(item: Raw) -> RouteFacts | None:
    """Read an HTTPRoute, GRPCRoute, TLSRoute or TCPRoute of the Gateway API; the last one has no hosts."""
    spec = item.get("spec") or {}
    found = (ref for rule in spec.get("rules") or () for ref in rule.get("backendRefs") or () if not ref.get("group"))
    return route(item, spec.get("hostnames") or (), set(services(item, found)))


def read_ingress_route(item: Raw) -> RouteFacts | None:
    """Read Traefik's IngressRoute or IngressRouteTCP; its hosts stand in a rule such as Host(`a`)."""
    routes = (item.get("spec") or {}).get("routes") or ()
    found = (service for one in routes for service in one.get("services") or ())
    matches = (match for one in routes for match in re.findall(r"\bHost(?:SNI)?\(([^)]*)\)", str(one.get("match"))))
    hosts = {host for match in matches for host in re.findall(r"[`\"]([^`\"]+)[`\"]", match)}
    return route(item, hosts, set(services(item, found)))


def services(item: Raw, references: Iterator[Raw]) -> Iterator[Target]:
    """Give the Services among references; without a namespace they mean the route's own."""
    for reference in references:
        if (reference.get("kind") or "Service") == "Service" and reference.get("name"):
            yield str(reference.get("namespace") or item["metadata"]["namespace"]), str(reference["name"])


def route(item: Raw, hosts: Any, backends: set[Target]) -> RouteFacts | None:
    """Build the facts of a route. A wildcard is no service's host: an exact name goes before it."""
    exact = frozenset(str(host).lower() for host in hosts if host)
    if is_own(item, SIGN_IN) or not (exact or backends):
        return None
    return RouteFacts(exact, frozenset(backends), str(item["metadata"].get("creationTimestamp", "")))


def read_slice(item: Raw) -> SliceFacts | None:
    """Read an EndpointSlice; its addresses may be those of any namespace's pods."""
    addresses = {str(one) for end in item.get("endpoints") or () for one in end.get("addresses") or ()}
    service = str((item["metadata"].get("labels") or {}).get(LABEL_SERVICE, ""))
    return SliceFacts(service, frozenset(addresses)) if addresses else None


def is_worker(item: Raw) -> bool:
    """Whether a pod carries the labels by which Services and policies find workers."""
    found = item["metadata"].get("labels") or {}
    return all(found.get(key) == value for key, value in COMMON.items()) and bool(found.get(LABEL_INSTANCE))


def is_stranger(item: Raw) -> bool:
    """Whether a pod carries a worker's labels without being one: not of the Deployment's ReplicaSet."""
    found, owner = item["metadata"].get("labels") or {}, controller(item)
    ours = owner.get("kind") == "ReplicaSet" and owner.get("name") == (
        f"{found.get(LABEL_INSTANCE)}-{found.get(TEMPLATE_HASH)}"
    )
    return is_worker(item) and not ours


def read_pod(item: Raw) -> PodTraits | None:
    """Read a pod that a worker's selector matches."""
    gone = item["metadata"].get("deletionTimestamp") or (item.get("status") or {}).get("phase") in ENDED
    stranger, bare = is_stranger(item), bool((item.get("spec") or {}).get("hostNetwork"))
    if gone or not is_worker(item) or not (stranger or bare):
        return None
    return PodTraits(item["metadata"]["labels"], stranger, bare)


READERS: dict[str, Callable[[Raw], Facts | None]] = {
    "NetworkPolicy": read_policy,
    "Service": read_service,
    "Ingress": read_ingress,
    "HTTPRoute": read_gateway_route,
    "GRPCRoute": read_gateway_route,
    "TLSRoute": read_gateway_route,
    "TCPRoute": read_gateway_route,
    "IngressRoute": read_ingress_route,
    "IngressRouteTCP": read_ingress_route,
    "Pod": read_pod,
    "EndpointSlice": read_slice,
}


def places(neighbour: Neighbour) -> set[str]:
    """Give the namespaces whose services an object can concern; a route points across them, a slice to addresses."""
    if isinstance(neighbour.facts, RouteFacts):
        return {namespace for namespace, _ in neighbour.facts.backends}
    if isinstance(neighbour.facts, SliceFacts):
        return set()
    return {neighbour.ref.namespace}


def hosts(neighbour: Neighbour) -> frozenset[str]:
    """Give the hosts that an object claims."""
    return neighbour.facts.hosts if isinstance(neighbour.facts, RouteFacts) else frozenset()


def addresses(neighbour: Neighbour) -> frozenset[str]:
    """Give the addresses of pods that an object sends requests to."""
    return neighbour.facts.addresses if isinstance(neighbour.facts, SliceFacts) else frozenset()


def could_select(facts: Facts, name: str) -> bool:
    """Whether an object can concern the service `name` of a namespace that it reaches."""
    wanted: Mapping[str, str] = {}
    if isinstance(facts, PolicyFacts):
        wanted = facts.selector.get("matchLabels") or {}
    elif isinstance(facts, ServiceFacts):
        wanted = dict(facts.selector)
    elif isinstance(facts, PodTraits):
        wanted = {LABEL_INSTANCE: facts.labels[LABEL_INSTANCE]}
    return wanted.get(LABEL_INSTANCE, name) == name
