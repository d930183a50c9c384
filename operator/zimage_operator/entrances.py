"""What the cluster's administrators offer as ways in, and what these say of our objects: readings and a memory.

An IngressClass or a Gateway belongs to somebody else: it is read, believed about its own controller, and
never changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .manifest import Key
from .names import SAFE_NAMING, SAFE_NAMING_ANNOTATION, TRAEFIK_CONTROLLER
from .spec import Gateway, ZImageService

Raw = Mapping[str, Any]
ROLES = "an operator with Roles only"


@dataclass(frozen=True)
class Entrance:
    """Where a service is to be published: who serves it, or why nobody can."""

    # `spec.controller` of the IngressClass, `spec.controllerName` of the GatewayClass; empty: not known.
    controller: str = ""
    reason: str = ""
    message: str = ""
    # A route there would be open in a way that the resource does not say.
    unsafe: bool = False
    # What the dialect adds: its name, the fields that it leaves to the workers, what everybody should know.
    dialect: str = ""
    left: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class GatewayFacts:
    """A Gateway: its class, and of each listener whether it ends TLS."""

    class_name: str
    listeners: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Verdict:
    """What the edge's controller says of an object of ours: accepted, refused (then why), or pending."""

    state: str
    message: str = ""


class Entrances:
    """The IngressClasses, Gateways and GatewayClasses that were last seen."""

    def __init__(self) -> None:
        # By name: the controller. What the operator's settings tell goes before what is seen.
        self.classes: dict[str, str] = {}
        self.told: Mapping[str, str] = {}
        self.gateway_classes: dict[str, str] = {}
        self.gateways: dict[Key, GatewayFacts] = {}

    def observe(self, kind: str, item: Raw, *, deleted: bool) -> set[tuple[str, ...]]:
        """Take in one object; give the entrances that have changed, as `named` names them."""
        head, spec = item["metadata"], item.get("spec") or {}
        if kind == "Gateway":
            key = (head["namespace"], head["name"])
            return {key} if changed(self.gateways, key, None if deleted else read_gateway(item)) else set()
        name = head["name"]
        if kind == "IngressClass":
            return {(name,)} if changed(self.classes, name, None if deleted else read_class(item)) else set()
        if not changed(self.gateway_classes, name, None if deleted else spec.get("controllerName", "")):
            return set()
        return {key for key, facts in self.gateways.items() if facts.class_name == name}

    def entrance(self, service: ZImageService) -> Entrance:
        """Say where a service is to be published."""
        if service.spec.gateway:
            return self.through_gateway(service, service.spec.gateway)
        name = service.spec.ingress.class_name if service.spec.ingress else None
        if not name or (found := self.told.get(name) or self.classes.get(name)) is None:
            text = f"no IngressClass {name}: see kubectl get ingressclasses, correct ingress.className "
            text += f"({ROLES} knows those of its ZIMAGE_OPERATOR_INGRESS_CLASSES)"
            return Entrance("", "ClassNotFound", text)
        return Entrance(found)

    def through_gateway(self, service: ZImageService, wanted: Gateway) -> Entrance:
        """Say which Gateway, and whether its listener keeps passwords from being read on the way."""
        parent = wanted.parent_ref
        key = (parent.namespace or service.namespace, parent.name)
        facts, told = self.gateways.get(key), f"Gateway {key[0]}/{key[1]}"
        if facts is None:
            text = f"no {told}: see kubectl get gateways -A, correct gateway.parentRef"
            return Entrance("", "GatewayNotFound", f"{text} ({ROLES} sees none)")
        controller = self.gateway_classes.get(facts.class_name)
        if controller is None:
            text = f"no GatewayClass {facts.class_name}, which {told} names: see kubectl get gatewayclasses"
            return Entrance("", "ClassNotFound", f"{text} ({ROLES} sees none)")
        listeners = dict(facts.listeners)
        if parent.section_name not in listeners:
            names = ", ".join(listeners) or "none"
            text = f"{told} has no listener {parent.section_name} ({names}): correct gateway.parentRef.sectionName"
            return Entrance(controller, "ListenerNotFound", text, unsafe=True)
        if not listeners[str(parent.section_name)]:
            text = f"listener {parent.section_name} of {told} does not end TLS, passwords would cross it in the clear"
            return Entrance(controller, "ListenerNotHTTPS", f"{text}: name one of protocol HTTPS", unsafe=True)
        return Entrance(controller)


def changed(memory: dict[Any, Any], key: Any, facts: Any) -> bool:
    """Take in facts (None: gone); whether that is news."""
    if memory.get(key) == facts:
        return False
    if facts is None:
        del memory[key]
    else:
        memory[key] = facts
    return True


def named(body: Raw) -> tuple[str, ...]:
    """Name the entrance that a raw resource asks for."""
    spec = body.get("spec") or {}
    parent = (spec.get("gateway") or {}).get("parentRef") or {}
    if parent:
        return (str(parent.get("namespace") or body["metadata"]["namespace"]), str(parent.get("name") or ""))
    return (str((spec.get("ingress") or {}).get("className") or ""),)


def read_class(item: Raw) -> str:
    """Read an IngressClass's controller, and how it wants to be spoken to."""
    controller = str((item.get("spec") or {}).get("controller", ""))
    noted = (item["metadata"].get("annotations") or {}).get(SAFE_NAMING_ANNOTATION) == "true"
    return f"{controller}{SAFE_NAMING}" if noted and controller == TRAEFIK_CONTROLLER else controller


def read_gateway(item: Raw) -> GatewayFacts:
    """Read a Gateway: a listener ends TLS where it is HTTPS and does not pass it on."""
    spec = item.get("spec") or {}
    listeners = tuple(
        (str(one.get("name")), one.get("protocol") == "HTTPS" and (one.get("tls") or {}).get("mode") != "Passthrough")
        for one in spec.get("listeners") or ()
    )
    return GatewayFacts(str(spec.get("gatewayClassName") or ""), listeners)


def read_verdict(item: Raw) -> Verdict:
    """Read what controllers say of an HTTPRoute (`parents`), of a policy attached to one (`ancestors`), or of others.

    F5's Policy has a `state`, cert-manager's Certificate conditions of its own.
    """
    status, generation = item.get("status") or {}, item["metadata"].get("generation", 0)
    if "state" in status:
        return Verdict("refused" if status["state"] != "Valid" else "accepted", str(status.get("message") or ""))
    told = [
        one for place in (*(status.get("parents") or ()), *(status.get("ancestors") or ())) for one in conditions(place)
    ]
    told += conditions(status)
    wrong = next((one for one in told if one.get("type") in WANTED and one.get("status") == "False"), None)
    if wrong:
        return Verdict("refused", f"{wrong.get('reason')}: {wrong.get('message')}"[:500])
    current = [one for one in told if one.get("observedGeneration", generation) >= generation]
    good = any(one.get("type") in WANTED and one.get("status") == "True" for one in current)
    return Verdict("accepted" if good else "pending")


# `ResolvedRefs`: a filter or a backend of the route is not there.
WANTED = frozenset({"Accepted", "ResolvedRefs", "Ready"})


def conditions(place: Raw) -> list[Raw]:
    """Give the conditions that stand in one place of a status."""
    return list(place.get("conditions") or ())


def refused(verdicts: Mapping[Any, Verdict]) -> Iterator[tuple[Any, str]]:
    """Give the objects that the edge's controller refuses, and why."""
    return ((ref, verdict.message) for ref, verdict in sorted(verdicts.items()) if verdict.state == "refused")
