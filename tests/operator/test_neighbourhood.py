"""Whom an object of somebody else concerns, and that it is remembered small and forgotten when it goes."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from zimage_operator.cache import Cache
from zimage_operator.manifest import Ref
from zimage_operator.names import API_VERSION, labels
from zimage_operator.neighbours import PolicyFacts, RouteFacts, ServiceFacts, is_own, is_stranger, read

STUDIO, ATELIER, OTHER = ("team-a", "studio"), ("team-a", "atelier"), ("team-b", "studio")


def item(kind: str, name: str, version: int = 1, place: str = "team-a", **more: Any) -> dict[str, Any]:
    spec = {"spec": more.pop("spec")} if "spec" in more else {}
    head = {"name": name, "namespace": place, "uid": more.pop("uid", f"{kind}-{name}"), "resourceVersion": str(version)}
    return {"kind": kind, "metadata": {**head, "creationTimestamp": "2026-01-01T00:00:00Z", **more}, **spec}


def service(key: tuple[str, str], host: str = "", version: int = 1) -> dict[str, Any]:
    ingress = {"ingress": {"host": host, "className": "traefik"}} if host else {}
    return item("ZImageService", key[1], version, key[0], uid=f"{key[0]}-{key[1]}", spec=ingress)


@pytest.fixture
def cache() -> Cache:
    known = Cache()
    for key, host in ((STUDIO, "a.example.org"), (ATELIER, ""), (OTHER, "b.example.org")):
        known.observe("ZImageService", service(key, host))
    return known


def ingress(name: str, host: str, backend: str, version: int = 1) -> dict[str, Any]:
    path = {"path": "/", "backend": {"service": {"name": backend}}}
    return item("Ingress", name, version, spec={"rules": [{"host": host, "http": {"paths": [path]}}]})


WIDE = {"podSelector": {}, "ingress": [{}]}
ONE = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": "studio"}}, "ingress": [{}]}
CONCERNED: dict[str, tuple[dict[str, Any], set[tuple[str, str]]]] = {
    "a policy for all pods": (item("NetworkPolicy", "wide", spec=WIDE), {STUDIO, ATELIER}),
    "a policy for one": (item("NetworkPolicy", "one", spec=ONE), {STUDIO}),
    "a policy that admits nobody": (item("NetworkPolicy", "none", spec={"podSelector": {}}), set()),
    "a policy for other pods": (
        item(
            "NetworkPolicy",
            "others",
            spec={"podSelector": {"matchLabels": {"app.kubernetes.io/name": "x"}}, "ingress": [{}]},
        ),
        set(),
    ),
    "a Service for one": (
        item("Service", "np", spec={"type": "NodePort", "selector": labels("studio")}),
        {STUDIO},
    ),
    "a Service without pods": (item("Service", "far", spec={"type": "NodePort"}), set()),
    "a route to one": (ingress("door", "x.example.org", "studio"), {STUDIO}),
    "a route to nobody's Service": (ingress("door", "x.example.org", "nobody"), set()),
    "a claim to a host elsewhere": (ingress("door", "b.example.org", "nobody"), {OTHER}),
    "a wildcard": (ingress("door", "*.example.org", "nobody"), set()),
    "a pod of one": (item("Pod", "p", labels=labels("studio"), spec={}), {STUDIO}),
    "a route from afar": (
        {
            **item("HTTPRoute", "far", place="edge"),
            "spec": {"rules": [{"backendRefs": [{"name": "studio", "namespace": "team-b"}]}]},
        },
        {OTHER},
    ),
    **{
        f"a {kind} to one": (
            item(kind, "r", spec={"rules": [{"backendRefs": [{"name": "studio"}]}]}),
            {STUDIO},
        )
        for kind in ("GRPCRoute", "TLSRoute", "TCPRoute")
    },
}


@pytest.mark.parametrize("case", CONCERNED)
def test_who_is_concerned_is_told_when_it_comes_and_when_it_goes(cache: Cache, case: str) -> None:
    made, wanted = CONCERNED[case]
    assert set(cache.observe(made["kind"], made)) == wanted
    # An echo concerns nobody.
    assert cache.observe(made["kind"], made) == []
    assert set(cache.observe(made["kind"], made, deleted=True)) == wanted
    assert cache.neighbourhood.neighbours == {}
    assert not cache.neighbourhood.by_place
    assert not cache.neighbourhood.by_host


def test_a_route_to_a_service_that_selects_the_workers_concerns_them(cache: Cache) -> None:
    cache.observe("Service", item("Service", "alias", spec={"selector": labels("atelier")}))
    assert set(cache.observe("Ingress", ingress("door", "x.example.org", "alias"))) == {ATELIER}


def test_what_becomes_harmless_stays_so_when_an_old_event_comes_late(cache: Cache) -> None:
    late = item("NetworkPolicy", "wide", 5, spec=WIDE)
    cache.observe("NetworkPolicy", late)
    assert set(cache.observe("NetworkPolicy", item("NetworkPolicy", "wide", 6, spec={"podSelector": {}})))
    assert cache.observe("NetworkPolicy", late) == []
    assert cache.surroundings(STUDIO, "").near[0].facts is None


def test_a_full_list_forgets_what_no_watch_has_reported(cache: Cache) -> None:
    cache.observe("NetworkPolicy", item("NetworkPolicy", "wide", 5, spec=WIDE))
    cache.observe("NetworkPolicy", item("NetworkPolicy", "newer", 9, spec=WIDE))
    assert set(cache.sweep("NetworkPolicy", [], 7)) == {STUDIO, ATELIER}
    assert [one.ref.name for one in cache.neighbourhood.near("team-a")] == ["newer"]


def test_rivals_for_a_host_are_told_of_each_change(cache: Cache) -> None:
    assert set(cache.observe("ZImageService", service(ATELIER, "a.example.org", 2))) == {ATELIER, STUDIO}
    assert {one.name for one in cache.surroundings(STUDIO, "a.example.org").claims} == {"studio", "atelier"}
    assert set(cache.observe("ZImageService", service(ATELIER, "a.example.org", 3))) == {ATELIER}
    assert set(cache.observe("ZImageService", service(ATELIER, "b.example.org", 4))) == {ATELIER, STUDIO, OTHER}
    assert set(cache.observe("ZImageService", service(ATELIER, "", 5), deleted=True)) == {ATELIER, OTHER}
    assert set(cache.sweep("ZImageService", ["team-b-studio"], 9)) == {STUDIO}


def test_an_answer_to_a_write_that_comes_after_the_word_of_its_end_makes_nothing_of_it(cache: Cache) -> None:
    """Seen with a service that was deleted as its status was written: its ghost held the host for ten minutes."""
    answer = service(ATELIER, "a.example.org", 3)
    cache.observe("ZImageService", service(ATELIER, "a.example.org", 2))
    cache.observe("ZImageService", service(ATELIER, "a.example.org", 4), deleted=True)
    assert cache.observe("ZImageService", answer) == []
    assert ATELIER not in cache.services
    assert {one.name for one in cache.surroundings(STUDIO, "a.example.org").claims} == {"studio"}
    # Another of the same name is another; and so it is where a list, and no event, told of the end.
    fresh = {**answer, "metadata": {**answer["metadata"], "uid": "another"}}
    assert ATELIER in cache.observe("ZImageService", fresh)
    cache.sweep("ZImageService", ["team-a-studio", "team-b-studio"], 9)
    assert cache.observe("ZImageService", fresh) == []


def test_a_child_that_is_gone_stays_gone_and_one_that_lost_its_label_comes_back(cache: Cache) -> None:
    cache.observe("Service", owned("studio", "studio", version=5))
    cache.observe("Service", owned("studio", "studio", version=7), deleted=True)
    assert cache.observe("Service", owned("studio", "studio", version=6)) == []
    assert cache.children == {}
    assert cache.observe("Service", owned("studio", "studio", version=8)) == [STUDIO]


def owned(by: str, name: str, **more: Any) -> dict[str, Any]:
    owner = {"apiVersion": API_VERSION, "kind": "ZImageService", "name": by, "uid": "team-a-studio", "controller": True}
    return item("Service", name, labels=labels(by), ownerReferences=[owner], **more)


def test_ours_is_told_by_name_and_controller() -> None:
    assert is_own(owned("studio", "studio"))
    assert not is_own(owned("studio", "second"))
    foreign = owned("studio", "studio")
    foreign["metadata"]["ownerReferences"][0]["apiVersion"] = "example.org/v1"
    assert not is_own(foreign)
    assert read("Service", owned("studio", "studio", spec={"selector": labels("studio")})) is None
    # Each service has a policy and a route of its own: to keep these too would be to keep everything twice.
    assert read("NetworkPolicy", owned("studio", "studio", spec=WIDE)) is None
    assert isinstance(read("NetworkPolicy", owned("studio", "second", spec=WIDE)), PolicyFacts)
    published = {"selector": labels("studio"), "externalIPs": ["192.0.2.1"]}
    assert isinstance(read("Service", owned("studio", "studio", spec=published)), ServiceFacts)


def test_only_a_pod_of_the_deployments_replica_set_is_a_worker() -> None:
    marked = labels("studio") | {"pod-template-hash": "abc"}
    owner = {"kind": "ReplicaSet", "name": "studio-abc", "uid": "r", "controller": True}
    assert not is_stranger(item("Pod", "p", labels=marked, ownerReferences=[owner]))
    assert is_stranger(item("Pod", "p", labels=marked))
    assert is_stranger(item("Pod", "p", labels=marked, ownerReferences=[{**owner, "name": "another-abc"}]))
    assert is_stranger(item("Pod", "p", labels=marked, ownerReferences=[{**owner, "controller": False}]))
    assert is_stranger(item("Pod", "p", labels=marked, ownerReferences=[{**owner, "kind": "StatefulSet"}]))
    assert not is_stranger(item("Pod", "p", labels={"app": "x"}))


def test_a_strangers_pod_is_never_counted_among_the_workers(cache: Cache) -> None:
    cache.observe("Pod", item("Pod", "p", labels=labels("studio"), spec={}))
    assert cache.pods(STUDIO) == ()


def test_labels_that_others_put_on_the_workers_are_selected_by_too(cache: Cache) -> None:
    owner = {"kind": "ReplicaSet", "name": "studio-abc", "uid": "r", "controller": True}
    marked = labels("studio") | {"pod-template-hash": "abc", "mesh": "on"}
    cache.observe("Pod", item("Pod", "p", labels=marked, ownerReferences=[owner], spec={}))
    assert cache.pods(STUDIO)[0].extra_labels == (("mesh", "on"), ("pod-template-hash", "abc"))
    assert cache.surroundings(STUDIO, "").labels == (marked,)
    assert cache.surroundings(ATELIER, "").labels == (labels("atelier"),)


def sliced(*addresses: str, place: str = "elsewhere", version: int = 1) -> dict[str, Any]:
    ends = [{"addresses": [address]} for address in addresses]
    made = item("EndpointSlice", "by-hand", version, place, labels={"kubernetes.io/service-name": "door"})
    return {**made, "endpoints": ends}


def worker(name: str, address: str, service: str = "studio", version: int = 1) -> dict[str, Any]:
    owner = {"kind": "ReplicaSet", "name": f"{service}-abc", "uid": "r", "controller": True}
    marked = labels(service) | {"pod-template-hash": "abc"}
    made = item("Pod", name, version, labels=marked, ownerReferences=[owner], spec={})
    return {**made, "status": {"podIP": address}}


def test_a_slice_with_a_workers_address_concerns_its_service_wherever_it_stands(cache: Cache) -> None:
    cache.observe("Pod", worker("p", "192.0.2.1"))
    assert set(cache.observe("EndpointSlice", sliced("192.0.2.1", "192.0.2.9"))) == {STUDIO}
    assert [one.ref.name for one in cache.surroundings(STUDIO, "").slices] == ["by-hand"]
    assert cache.surroundings(ATELIER, "").slices == ()
    assert set(cache.observe("EndpointSlice", sliced("192.0.2.9", version=2))) == {STUDIO}
    assert cache.surroundings(STUDIO, "").slices == ()
    cache.observe("EndpointSlice", sliced("192.0.2.9", version=3), deleted=True)
    assert not cache.neighbourhood.by_address


def test_an_address_moves_with_its_pod_and_goes_with_it(cache: Cache) -> None:
    cache.observe("EndpointSlice", sliced("192.0.2.1", "192.0.2.2"))
    cache.observe("Pod", worker("p", "192.0.2.1"))
    cache.observe("Pod", worker("p", "192.0.2.2", version=2))
    assert cache.neighbourhood.workers == {"192.0.2.2": STUDIO}
    # The next pod has the address before we hear that the last one has gone.
    cache.observe("Pod", worker("q", "192.0.2.2", version=3))
    cache.observe("Pod", worker("p", "192.0.2.2", version=4), deleted=True)
    assert cache.neighbourhood.workers == {"192.0.2.2": STUDIO}
    assert cache.surroundings(STUDIO, "").slices
    cache.observe("Pod", worker("q", "192.0.2.2", version=5), deleted=True)
    assert cache.neighbourhood.workers == {}
    assert cache.surroundings(STUDIO, "").slices == ()


def test_hosts_of_traefiks_own_routes_are_read() -> None:
    spec = {"routes": [{"match": "Host(`A.example.org`, `b.example.org`) && PathPrefix(`/x`)", "services": []}]}
    facts = read("IngressRoute", item("IngressRoute", "r", spec=spec))
    assert isinstance(facts, RouteFacts)
    assert facts.hosts == {"a.example.org", "b.example.org"}


def test_an_object_that_lost_label_and_owner_is_no_child_any_more(cache: Cache) -> None:
    child = owned("studio", "studio", spec={"selector": labels("studio")})
    cache.observe("Service", child)
    assert Ref("Service", *STUDIO) in cache.children
    stripped = item("Service", "studio", 2, uid=child["metadata"]["uid"], spec={"selector": labels("studio")})
    assert STUDIO in cache.observe("Service", stripped)
    assert Ref("Service", *STUDIO) not in cache.children


def test_five_thousand_foreign_objects_cost_little() -> None:
    """They are everybody's Services and routes: most of a large cluster, and none of our business."""
    tracemalloc.start()
    known = Cache()
    for number in range(2500):
        name = f"s-{number}"
        known.observe("Service", item("Service", name, spec={"selector": {"app": name}, "ports": [{"port": 80}]}))
        known.observe("Ingress", ingress(name, f"{name}.example.org", name))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / 5000 < 2000  # bytes each; measured: 1,100
