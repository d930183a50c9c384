"""The exposure audit on the real API server: each way to open a service is named at once, and cleared when it goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from laws import conditions, exists, reason, serve, wait_for
from support import Operator, claim, eventually, published, smallest

pytestmark = pytest.mark.control_plane

PLACE = "audited"
WORKER = {
    "app.kubernetes.io/name": "zimage",
    "app.kubernetes.io/instance": "studio",
    "app.kubernetes.io/component": "worker",
}
PORT = {"name": "http", "port": 7860, "targetPort": 7860}


def item(api: str, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    head = {"name": name, "namespace": PLACE, **metadata}
    return {"apiVersion": api, "kind": kind, "metadata": head, "spec": spec}


def policy(name: str, **spec: Any) -> dict[str, Any]:
    return item("networking.k8s.io/v1", "NetworkPolicy", name, {"podSelector": {}, **spec})


def ingress(name: str, host: str, service: str, place: str = PLACE) -> dict[str, Any]:
    backend = {"service": {"name": service, "port": {"number": 7860}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    rules = [{"host": host, "http": {"paths": paths}}]
    return item("networking.k8s.io/v1", "Ingress", name, {"rules": rules}, namespace=place)


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "localhost/nothing:1"}]
    return item("v1", "Pod", name, {"containers": containers, **spec}, labels=WORKER)


def gateway_route(kind: str, name: str) -> dict[str, Any]:
    rules = [{"backendRefs": [{"name": "studio", "port": 7860}]}]
    hosts = {} if kind == "TCPRoute" else {"hostnames": ["other.example.org"]}
    return item("gateway.networking.k8s.io/v1", kind, name, {"rules": rules, **hosts})


def ingress_route(name: str) -> dict[str, Any]:
    services = [{"name": "studio", "port": 7860}]
    routes = [{"kind": "Rule", "match": "Host(`third.example.org`)", "services": services}]
    return item("traefik.io/v1alpha1", "IngressRoute", name, {"entryPoints": ["web"], "routes": routes})


# What is made by hand, and the reason that names it.
HOLES: dict[str, tuple[dict[str, Any], str]] = {
    "a policy that admits everybody": (policy("wide", ingress=[{}]), "OtherPolicyWidens"),
    "a policy that lets out": (policy("out", policyTypes=["Egress"], egress=[{}]), "OtherPolicyWidens"),
    "a NodePort": (
        item("v1", "Service", "node-port", {"type": "NodePort", "selector": WORKER, "ports": [PORT]}),
        "ExtraService",
    ),
    "a LoadBalancer": (
        item("v1", "Service", "balanced", {"type": "LoadBalancer", "selector": WORKER, "ports": [PORT]}),
        "ExtraService",
    ),
    "external addresses": (
        item("v1", "Service", "outer", {"selector": WORKER, "ports": [PORT], "externalIPs": ["192.0.2.7"]}),
        "ExtraService",
    ),
    "another Ingress": (ingress("second-door", "other.example.org", "studio"), "ExtraRoute"),
    "an HTTPRoute": (gateway_route("HTTPRoute", "gateway-door"), "ExtraRoute"),
    "a GRPCRoute": (gateway_route("GRPCRoute", "grpc-door"), "ExtraRoute"),
    "a TLSRoute": (gateway_route("TLSRoute", "tls-door"), "ExtraRoute"),
    "a TCPRoute": (gateway_route("TCPRoute", "tcp-door"), "ExtraRoute"),
    "an IngressRoute": (ingress_route("traefik-door"), "ExtraRoute"),
    "a pod on the node's network": (pod("bare", hostNetwork=True), "HostNetworkPod"),
    "a pod with the workers' labels": (pod("stranger"), "ForeignPod"),
    "an Ingress for the same host": (ingress("squatter", "audited.example.org", "elsewhere"), "HostConflict"),
}


@pytest.fixture(scope="module")
def audited(operator: Operator) -> Iterator[Operator]:
    """One service for all cases, in a namespace that lets pods onto the node's network."""
    cluster = operator.cluster
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE, "labels": labels}})
    claim(cluster, PLACE)
    eventually(lambda: "default" in cluster.kubectl("-n", PLACE, "get", "serviceaccounts", "-o", "name"))
    # On the processor: the one GPU belongs to the other tests.
    serve(cluster, PLACE, gpu={"count": 0}, ingress=published("audited.example.org"))
    assert reason(cluster, PLACE, "ExposureAsDeclared") == "AsDeclared"
    yield operator
    cluster.kubectl("delete", "namespace", PLACE, "--wait=false")


def events(cluster: ControlPlane, place: str = PLACE) -> list[tuple[str, str, str]]:
    """Type, reason and text of every event about the service, in any order."""
    found = cluster.get("events.events.k8s.io", "-n", place)["items"]
    about = [event for event in found if event["regarding"]["name"] == "studio"]
    return [(event["type"], event["reason"], event["note"]) for event in about]


@pytest.mark.parametrize("case", HOLES)
def test_a_hole_is_named_told_once_and_cleared_when_it_goes(audited: Operator, case: str) -> None:
    cluster, (made, wanted) = audited.cluster, HOLES[case]
    kind, name = made["kind"], made["metadata"]["name"]
    cluster.apply(made)
    wait_for(cluster, PLACE, wanted, "ExposureAsDeclared")
    found = conditions(cluster, PLACE)
    assert found["ExposureAsDeclared"]["status"] == "False"
    assert f"{kind} {name}" in found["ExposureAsDeclared"]["message"]
    # It is told, and takes nothing away: what stands serves on.
    assert found["Ready"]["status"] == "True"
    status = cluster.get("zis", "studio", "-n", PLACE)["status"]
    assert {"reason": wanted, "kind": kind, "namespace": PLACE, "name": name} in status["exposures"]
    opened = [("Warning", wanted)]
    eventually(lambda: [it[:2] for it in events(cluster) if f"{kind} {name}" in it[2]] == opened, "one warning")

    cluster.kubectl("-n", PLACE, "delete", kind, name, "--wait=false", "--grace-period=0", "--force")
    wait_for(cluster, PLACE, "AsDeclared", "ExposureAsDeclared")
    closed = f"{kind} {PLACE}/{name} no longer opens"
    eventually(lambda: [it[:2] for it in events(cluster) if closed in it[2]] == [("Normal", "ExposureClosed")], closed)
    assert "exposures" not in cluster.get("zis", "studio", "-n", PLACE)["status"]


HARMLESS = {
    "denies": policy("deny-all", policyTypes=["Ingress", "Egress"]),
    "repeats": policy(
        "same",
        ingress=[
            {
                "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "dmz"}}}],
                "ports": [{"port": "http"}],
            }
        ],
    ),
    "selects others": policy("others", podSelector={"matchLabels": {"app": "x"}}, ingress=[{}]),
    "leads elsewhere": ingress("elsewhere", "else.example.org", "elsewhere"),
    "solves a challenge": {
        **ingress("solver", "audited.example.org", "solver"),
        "spec": {
            "rules": [
                {
                    "host": "audited.example.org",
                    "http": {
                        "paths": [
                            {
                                "path": "/.well-known/acme-challenge/token",
                                "pathType": "ImplementationSpecific",
                                "backend": {"service": {"name": "solver", "port": {"number": 8089}}},
                            }
                        ]
                    },
                }
            ]
        },
    },
}


def test_what_opens_nothing_is_left_in_peace(audited: Operator) -> None:
    cluster = audited.cluster
    cluster.apply(*HARMLESS.values())
    # Behind them in every stream comes one that is named: by then they have been judged.
    cluster.apply(HOLES["a policy that admits everybody"][0], HOLES["another Ingress"][0])

    def named() -> list[str]:
        status = cluster.get("zis", "studio", "-n", PLACE)["status"]
        return [one["name"] for one in status.get("exposures", ())]

    eventually(lambda: set(named()) == {"wide", "second-door"}, "these two and no others")
    cluster.kubectl("-n", PLACE, "delete", "netpol", "wide", *(made["metadata"]["name"] for made in POLICIES))
    doors = [made["metadata"]["name"] for made in HARMLESS.values() if made["kind"] == "Ingress"]
    cluster.kubectl("-n", PLACE, "delete", "ingress", "second-door", *doors)
    wait_for(cluster, PLACE, "AsDeclared", "ExposureAsDeclared")


POLICIES = [made for made in HARMLESS.values() if made["kind"] == "NetworkPolicy"]


def test_external_addresses_on_our_own_service_are_named(audited: Operator) -> None:
    """The field is not ours, so it is no drift; yet it opens the workers."""
    cluster = audited.cluster
    patch = ["-n", PLACE, "patch", "service", "studio", "--type=merge", "-p"]
    cluster.kubectl(*patch, '{"spec":{"externalIPs":["192.0.2.9"]}}')
    wait_for(cluster, PLACE, "ExtraService", "ExposureAsDeclared")
    cluster.kubectl(*patch, '{"spec":{"externalIPs":null}}')
    wait_for(cluster, PLACE, "AsDeclared", "ExposureAsDeclared")


def test_addresses_that_somebody_wrote_down_are_named_from_any_namespace(audited: Operator, namespace: str) -> None:
    """A Service without a selector, and an EndpointSlice by hand: no label of ours is in either."""
    cluster = audited.cluster
    worker = next(pod for pod in cluster.get("pods", "-n", PLACE)["items"] if pod["status"].get("podIP"))
    head = {"name": "by-hand", "namespace": namespace, "labels": {"kubernetes.io/service-name": "by-hand"}}
    ports = [{"name": "", "port": 7860, "protocol": "TCP"}]
    made = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": head, "addressType": "IPv4"}
    spec = {"type": "NodePort", "ports": [{"port": 7860}]}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "by-hand", "namespace": namespace}, "spec": spec},
        {**made, "ports": ports, "endpoints": [{"addresses": [worker["status"]["podIP"]]}]},
    )
    wait_for(cluster, PLACE, "ExtraService", "ExposureAsDeclared")
    told = conditions(cluster, PLACE)["ExposureAsDeclared"]["message"]
    assert f"EndpointSlice {namespace}/by-hand sends the requests of Service by-hand to the workers" in told
    cluster.kubectl("-n", namespace, "delete", "endpointslice", "by-hand")
    wait_for(cluster, PLACE, "AsDeclared", "ExposureAsDeclared")


def test_of_two_that_claim_a_host_the_oldest_has_it_and_both_are_told(audited: Operator, namespace: str) -> None:
    cluster = audited.cluster
    younger = smallest(namespace=namespace, gpu={"count": 0}, ingress=published("audited.example.org"))
    cluster.apply(younger)
    wait_for(cluster, namespace, "HostConflict", "IngressReady")
    assert not exists(cluster, namespace, "ing")
    assert f"ZImageService {PLACE}/studio" in conditions(cluster, namespace)["IngressReady"]["message"]
    wait_for(cluster, PLACE, "HostConflict", "ExposureAsDeclared")
    assert f"{namespace}/studio" in conditions(cluster, PLACE)["ExposureAsDeclared"]["message"]
    assert exists(cluster, PLACE, "ing")

    # The older one moves away: the younger may come in, and nobody has to be asked twice.
    cluster.apply(smallest(namespace=PLACE, gpu={"count": 0}, ingress=published("moved.example.org")))
    wait_for(cluster, namespace, "Published", "IngressReady")
    wait_for(cluster, PLACE, "AsDeclared", "ExposureAsDeclared")
    # It comes back, and is still the older one: the route of the younger goes.
    cluster.apply(smallest(namespace=PLACE, gpu={"count": 0}, ingress=published("audited.example.org")))
    wait_for(cluster, namespace, "HostConflict", "IngressReady")
    eventually(lambda: not exists(cluster, namespace, "ing"), "the younger has no route any more")
    cluster.kubectl("-n", namespace, "delete", "zis", "studio")
    wait_for(cluster, PLACE, "AsDeclared", "ExposureAsDeclared")


def test_a_host_that_an_older_ingress_serves_is_not_taken(audited: Operator, namespace: str) -> None:
    cluster = audited.cluster
    cluster.apply(ingress("first", "taken.example.org", "elsewhere", namespace))
    born = cluster.get("ingress", "first", "-n", namespace)["metadata"]["creationTimestamp"]
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, ingress=published("taken.example.org")))
    assert born <= cluster.get("zis", "studio", "-n", namespace)["metadata"]["creationTimestamp"]
    wait_for(cluster, namespace, "HostConflict", "IngressReady")
    assert "Ingress first" in conditions(cluster, namespace)["IngressReady"]["message"]
    assert not exists(cluster, namespace, "ing")
    cluster.kubectl("-n", namespace, "delete", "ingress", "first")
    wait_for(cluster, namespace, "Published", "IngressReady")


def test_every_line_that_is_about_a_resource_has_its_key_as_fields(audited: Operator) -> None:
    cluster = audited.cluster
    cluster.kubectl("-n", PLACE, "label", "service", "studio", "app.kubernetes.io/part-of=else", "--overwrite")

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in audited.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if "Service studio" in line["message"] and "put back" in line["message"]]

    told = eventually(lines, "the repair is logged")[-1]
    assert (told["namespace"], told["name"], told["level"]) == (PLACE, "studio", "warning")
