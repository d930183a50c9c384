"""The judgement of the audit from facts alone: which reason, in which order, and who has a host."""

from __future__ import annotations

import pytest

from support import smallest
from zimage_operator.children import children
from zimage_operator.exposure import ORDER, Claim, Exposure, Surroundings, audit
from zimage_operator.manifest import Environment, Ref
from zimage_operator.names import labels
from zimage_operator.neighbours import Facts, Neighbour, PodTraits, PolicyFacts, RouteFacts, ServiceFacts
from zimage_operator.spec import parse

SERVICE = parse(smallest(namespace="team-a"))
DESIRED = children(SERVICE, Environment("w:1", "zimage-system"))
MINE = Claim("2026-01-02T00:00:00Z", "team-a", "studio")
HOST = "img.example.org"
SELECTOR = tuple(sorted(labels("studio").items()))


def neighbour(kind: str, facts: Facts, name: str = "other", place: str = "team-a") -> Neighbour:
    return Neighbour(Ref(kind, place, name), "u", 1, facts)


def route(created: str = "2026-01-03T00:00:00Z", host: str = "", backend: str = "", name: str = "door") -> Neighbour:
    hosts, backends = frozenset({host} - {""}), frozenset({("team-a", backend)} if backend else ())
    return neighbour("Ingress", RouteFacts(hosts, backends, created), name)


def found(*near: Neighbour, on_host: tuple[Neighbour, ...] = (), claims: tuple[Claim, ...] = (MINE,)) -> Exposure:
    injected = labels("studio") | {"mesh": "on"}
    return audit(SERVICE, DESIRED, Surroundings(MINE, near, on_host, claims, (injected,)))


ANY = {"podSelector": {}}
CASES: dict[str, tuple[Neighbour, str | None]] = {
    "admits everybody": (neighbour("NetworkPolicy", PolicyFacts({}, ({},), ())), "OtherPolicyWidens"),
    "lets out": (neighbour("NetworkPolicy", PolicyFacts({}, (), ({},))), "OtherPolicyWidens"),
    "by an injected label": (
        neighbour("NetworkPolicy", PolicyFacts({"matchLabels": {"mesh": "on"}}, ({},), ())),
        "OtherPolicyWidens",
    ),
    "selects none of ours": (
        neighbour("NetworkPolicy", PolicyFacts({"matchLabels": {"mesh": "off"}}, ({},), ())),
        None,
    ),
    "NodePort": (neighbour("Service", ServiceFacts(SELECTOR, "NodePort", external=False)), "ExtraService"),
    "external": (neighbour("Service", ServiceFacts(SELECTOR, "ClusterIP", external=True)), "ExtraService"),
    "inside": (neighbour("Service", ServiceFacts(SELECTOR, "ClusterIP", external=False)), None),
    "others' NodePort": (neighbour("Service", ServiceFacts((("app", "x"),), "NodePort", external=False)), None),
    "a route to us": (route(backend="studio"), "ExtraRoute"),
    "a route to others": (route(backend="others"), None),
    "our labels": (neighbour("Pod", PodTraits(labels("studio"), stranger=True, host_network=False)), "ForeignPod"),
    "the node's network": (
        neighbour("Pod", PodTraits(labels("studio"), stranger=False, host_network=True)),
        "HostNetworkPod",
    ),
    "another service's pod": (neighbour("Pod", PodTraits(labels("x"), stranger=True, host_network=True)), None),
}


@pytest.mark.parametrize("case", CASES)
def test_each_object_has_its_reason_and_its_advice(case: str) -> None:
    one, reason = CASES[case]
    holes = found(one).holes
    assert [hole.reason for hole in holes] == ([reason] if reason else [])
    for hole in holes:
        assert f"{one.ref.kind} {one.ref.name}" in hole.message
        assert "kubectl -n team-a" in hole.message


def test_a_route_by_another_service_that_selects_us_is_one_to_us() -> None:
    alias = neighbour("Service", ServiceFacts(SELECTOR, "ClusterIP", external=False), "alias")
    assert [hole.ref.name for hole in found(alias, route(backend="alias")).holes] == ["door"]


def test_what_opens_most_is_told_first() -> None:
    holes = found(*(one for one, reason in CASES.values() if reason)).holes
    reasons = [hole.reason for hole in holes]
    assert reasons == sorted(reasons, key=ORDER.index)
    assert reasons[0] == "HostNetworkPod"


def test_a_younger_claim_is_told_and_takes_nothing() -> None:
    younger = Claim("2026-01-03T00:00:00Z", "team-b", "rival")
    exposure = found(claims=(MINE, younger))
    assert exposure.rival is None
    assert [hole.reason for hole in exposure.holes] == ["HostConflict"]
    assert "team-b/rival" in exposure.holes[0].message
    later = found(on_host=(route(host=HOST, name="squatter"),))
    assert later.rival is None
    assert later.holes[0].ref.name == "squatter"


def test_an_older_claim_has_the_host() -> None:
    older = Claim("2026-01-01T00:00:00Z", "team-b", "rival")
    exposure = found(claims=(older, MINE))
    assert exposure.rival
    assert f"host {HOST} belongs to ZImageService team-b/rival" in exposure.rival.message
    assert exposure.holes == ()
    earlier = found(on_host=(route("2026-01-01T00:00:00Z", HOST, name="first"),))
    assert earlier.rival
    assert "Ingress first" in earlier.rival.message


@pytest.mark.parametrize("other", [("team-a", "a"), ("team-a", "z"), ("team-0", "studio"), ("team-z", "studio")])
def test_of_twins_exactly_one_has_the_host(other: tuple[str, str]) -> None:
    twin = Claim(MINE.created, *other)
    body = smallest(name=other[1], namespace=other[0])
    theirs = parse(body)
    seen_there = audit(
        theirs,
        children(theirs, Environment("w:1", "zimage-system")),
        Surroundings(twin, (), (), (MINE, twin), (labels(other[1]),)),
    )
    assert bool(found(claims=(MINE, twin)).rival) != bool(seen_there.rival)


def test_a_route_to_us_on_our_host_is_named_once() -> None:
    both = route(host=HOST, backend="studio")
    assert [hole.reason for hole in found(both, on_host=(both,)).holes] == ["ExtraRoute"]
