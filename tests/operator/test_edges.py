"""From one edge to another on a real API server: at no revision is a route without its protection, and none is left."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from laws import conditions, reason, wait_for
from support import Operator, eventually, smallest
from taken import lose_labels, told

pytestmark = pytest.mark.control_plane

GATEWAY_API = "gateway.networking.k8s.io/v1"
WATCHED = {
    "ingresses": "/apis/networking.k8s.io/v1",
    "httproutes": f"/apis/{GATEWAY_API}",
    "middlewares": "/apis/traefik.io/v1alpha1",
    "policies": "/apis/k8s.nginx.org/v1",
    "securitypolicies": "/apis/gateway.envoyproxy.io/v1alpha1",
}
RANGES = {"allowedSourceRanges": ["192.0.2.0/24"]}


def ingress(class_name: str, **more: Any) -> dict[str, Any]:
    way = {"host": "img.example.org", "className": class_name, "tls": {"secretName": "img-tls"}, **RANGES, **more}
    return {"ingress": way}


def gateway(name: str, **more: Any) -> dict[str, Any]:
    parent = {"name": name, "sectionName": "https"}
    return {"ingress": None, "gateway": {"host": "img.example.org", "parentRef": parent, **RANGES, **more}}


ISSUER = {"tls": {"issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}}
# The way through all of them: dialect, what is written, and what then has to stand beside the route.
WAY: list[tuple[str, dict[str, Any], set[str]]] = [
    ("traefik", ingress("traefik"), {"Middleware studio-allow", "Middleware studio-auth", "Middleware studio-headers"}),
    ("gateway-traefik", gateway("traefik-edge"), {"Middleware studio-allow", "Middleware studio-auth"}),
    ("gateway-envoy", gateway("envoy-edge"), {"SecurityPolicy studio"}),
    ("f5-nginx", ingress("f5"), {"Policy studio-allow", "Policy studio-auth"}),
    ("ingress-nginx", ingress("nginx"), set()),
    ("gateway-traefik", gateway("traefik-edge"), {"Middleware studio-allow", "Middleware studio-auth"}),
    ("traefik", ingress("traefik", **ISSUER), {"Middleware studio-allow", "Middleware studio-auth"}),
    ("traefik", ingress("traefik"), {"Middleware studio-allow", "Middleware studio-auth"}),
]


def entrances(namespace: str) -> Iterator[dict[str, Any]]:
    """What the cluster's administrator sets up."""
    for name, controller in (
        ("f5", "nginx.org/ingress-controller"),
        ("nginx", "k8s.io/ingress-nginx"),
        ("other", "example.org/x"),
    ):
        head = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name}}
        yield {**head, "spec": {"controller": controller}}
    controllers = {"traefik": "traefik.io/gateway-controller", "envoy": "gateway.envoyproxy.io/gatewayclass-controller"}
    for name, controller in controllers.items():
        head = {"apiVersion": GATEWAY_API, "kind": "GatewayClass", "metadata": {"name": name}}
        yield {**head, "spec": {"controllerName": controller}}
        yield a_gateway(namespace, name)


def a_gateway(namespace: str, name: str, protocol: str = "HTTPS") -> dict[str, Any]:
    certificate = {"certificateRefs": [{"name": "img-tls"}]}
    tls = {"tls": certificate} if protocol == "HTTPS" else {}
    listeners = [{"name": "https", "protocol": protocol, "port": 443, **tls}]
    head = {"name": f"{name}-edge", "namespace": namespace}
    spec = {"gatewayClassName": name, "listeners": listeners}
    return {"apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": head, "spec": spec}


def accept(cluster: ControlPlane, namespace: str, kind: str = "httproute", status: str = "True") -> None:
    """Say of an object what its Gateway's controller would: tests/edge has the real one."""
    item = cluster.get(kind, "studio", "-n", namespace)
    told = {
        "type": "Accepted", "status": status, "reason": "Accepted" if status == "True" else "NotAllowedByListeners",
        "message": "by the test", "lastTransitionTime": "2026-11-25T00:00:00Z",
        "observedGeneration": item["metadata"]["generation"],
    }  # fmt: skip
    if kind == "httproute":
        where = {"controllerName": "example.org/test", "parentRef": item["spec"]["parentRefs"][0]}
        body: dict[str, Any] = {"parents": [{**where, "conditions": [told]}]}
    else:
        where = {"controllerName": "example.org/test", "ancestorRef": {"name": "envoy-edge"}}
        body = {"ancestors": [{**where, "conditions": [told]}]}
    patch = json.dumps({"status": body})
    cluster.kubectl("-n", namespace, "patch", kind, "studio", "--subresource=status", "--type=merge", "-p", patch)


@contextmanager
def watched(cluster: ControlPlane, namespace: str) -> Iterator[list[dict[str, Any]]]:
    """Every revision of the routes and of what protects them, in order, once the block is left."""
    events: list[dict[str, Any]] = []
    kubectl = [cluster.facts["kubectl"], f"--kubeconfig={cluster.kubeconfig}", "get", "--raw"]
    with tempfile.TemporaryDirectory() as folder:
        streams = []
        for plural, root in WATCHED.items():
            with (Path(folder) / plural).open("wb") as file:
                command = [*kubectl, f"{root}/namespaces/{namespace}/{plural}?watch=1"]
                streams.append(subprocess.Popen(command, stdout=file))
        try:
            yield events
        finally:
            for stream in streams:
                stream.terminate()
                stream.wait()
        lines = (line for file in Path(folder).iterdir() for line in file.read_text().splitlines())
        events += sorted(map(json.loads, lines), key=lambda event: int(event["object"]["metadata"]["resourceVersion"]))


def named(item: dict[str, Any], namespace: str) -> set[str]:
    """What a route says that protects it."""
    notes = item["metadata"].get("annotations", {})
    chain = notes.get("traefik.ingress.kubernetes.io/router.middlewares", "")
    found = {f"Middleware {one.removeprefix(f'{namespace}-').partition('@')[0]}" for one in chain.split(",") if one}
    found |= {f"Policy {one.rpartition('/')[2]}" for one in notes.get("nginx.org/policies", "").split(",") if one}
    for rule in item["spec"]["rules"]:
        found |= {f"Middleware {one['extensionRef']['name']}" for one in rule.get("filters", ())}
    # Envoy's policies name the route, not the other way round.
    envoy = item["kind"] == "HTTPRoute" and item["spec"]["parentRefs"][0]["name"] == "envoy-edge"
    return found | ({"SecurityPolicy studio"} if envoy else set())


def reached(cluster: ControlPlane, namespace: str, dialect: str, kind: str, published: dict[str, Any]) -> bool:
    """Whether the resource as it is now is published in this dialect, and in no other way."""
    body = cluster.get("zis", "studio", "-n", namespace)
    current = body["status"].get("observedGeneration") == body["metadata"]["generation"]
    routes = cluster.kubectl("-n", namespace, "get", "ingress,httproute", "-o", "name").split()
    if not (current and body["status"].get("dialect") == dialect and len(routes) == 1):
        return False
    if kind == "HTTPRoute":
        accept(cluster, namespace)
        if dialect == "gateway-envoy":
            accept(cluster, namespace, "securitypolicy")
            accept(cluster, namespace, "backendtrafficpolicy")
    if ISSUER["tls"] == (published.get("ingress") or {}).get("tls"):
        return "studio-tls" in cluster.kubectl("-n", namespace, "get", "certificates", "-o", "name")
    found = conditions(cluster, namespace)
    return bool(found["IngressReady"]["status"] == "True" and found["Ready"]["status"] == "True")


def test_no_revision_of_any_edge_is_without_protection(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    cluster.apply(*entrances(namespace))
    with watched(cluster, namespace) as events:
        for dialect, published, beside in WAY:
            cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, **published))
            kind = "HTTPRoute" if published.get("gateway") else "Ingress"
            eventually(
                lambda way=(dialect, kind, published): reached(cluster, namespace, *way), f"{dialect} is in force"
            )
            route = cluster.get(kind, "studio", "-n", namespace)
            assert beside <= named(route, namespace), dialect
    there: dict[str, dict[str, Any]] = {}
    for event in events:
        item = event["object"]
        key = f"{item['kind']} {item['metadata']['name']}"
        if event["type"] == "DELETED":
            del there[key]
        else:
            there[key] = item
        for route in [there[one] for one in ("Ingress studio", "HTTPRoute studio") if one in there]:
            assert named(route, namespace) <= there.keys(), f"{route['kind']} at {item['metadata']['resourceVersion']}"
    # Nothing of the edges before is left.
    assert {key.partition(" ")[0] for key in there} == {"Ingress", "Middleware"}
    # One route at least at every moment but the first: it changed its kind without a gap.
    kinds = [event["object"]["kind"] for event in events if event["type"] == "ADDED"]
    assert kinds.count("HTTPRoute") == 2


def routes(cluster: ControlPlane, namespace: str) -> list[str]:
    return cluster.kubectl("-n", namespace, "get", "ingress,httproute", "-o", "name").split()


def test_a_gateway_that_stops_ending_tls_loses_the_route(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    cluster.apply(*entrances(namespace))
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, **gateway("traefik-edge")))
    wait_for(cluster, namespace, "WaitingForGateway", "IngressReady")
    accept(cluster, namespace, status="False")
    wait_for(cluster, namespace, "RefusedByEdge", "IngressReady")
    assert "NotAllowedByListeners" in conditions(cluster, namespace)["IngressReady"]["message"]
    accept(cluster, namespace)
    wait_for(cluster, namespace, "Ready")
    assert cluster.get("zis", "studio", "-n", namespace)["status"]["url"] == "https://img.example.org/"
    assert reason(cluster, namespace, "ExposureAsDeclared") == "AsDeclared"
    cluster.apply(a_gateway(namespace, "traefik", "HTTP"))
    wait_for(cluster, namespace, "ListenerNotHTTPS", "IngressReady")
    eventually(lambda: not routes(cluster, namespace), "the route is gone")
    cluster.kubectl("-n", namespace, "delete", "gateway", "traefik-edge")
    wait_for(cluster, namespace, "GatewayNotFound", "IngressReady")


def test_a_class_that_changes_its_controller(operator: Operator, namespace: str) -> None:
    """A class is not changed but made anew; in between the route stands as it was."""
    cluster = operator.cluster
    cluster.apply(*entrances(namespace))
    changing = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": namespace}}
    cluster.apply({**changing, "spec": {"controller": "k8s.io/ingress-nginx"}})
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, **ingress(namespace)))
    wait_for(cluster, namespace, "Ready")
    assert "March 2026" in conditions(cluster, namespace)["IngressReady"]["message"]
    cluster.kubectl("delete", "ingressclass", namespace)
    wait_for(cluster, namespace, "ClassNotFound", "IngressReady")
    assert routes(cluster, namespace) == ["ingress.networking.k8s.io/studio"]
    # Whoever serves it now could not keep strangers out, as the resource says they have to be.
    cluster.apply({**changing, "spec": {"controller": "example.org/x"}})
    wait_for(cluster, namespace, "DialectUnsupported", "IngressReady")
    eventually(lambda: not routes(cluster, namespace), "the route is gone")
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, **ingress(namespace, allowedSourceRanges=[])))
    wait_for(cluster, namespace, "Ready")
    assert "by the workers alone: auth" in conditions(cluster, namespace)["IngressReady"]["message"]
    assert not cluster.get("ingress", "studio", "-n", namespace)["metadata"]["annotations"].keys() - {
        "zimage.dev/applied-hash"
    }
    cluster.kubectl("delete", "ingressclass", namespace)


def test_what_no_watch_shows_of_an_edge_is_found_by_name(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    cluster.apply(*entrances(namespace))
    route = {"apiVersion": GATEWAY_API, "kind": "HTTPRoute", "metadata": {"name": "studio", "namespace": namespace}}
    cluster.apply({**route, "spec": {"hostnames": ["else.example.org"]}})
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, **gateway("envoy-edge")))
    eventually(
        lambda: "HTTPRoute studio exists and does not belong" in told(cluster, namespace, "studio"), "it is taken"
    )
    cluster.kubectl("-n", namespace, "delete", "httproute", "studio")
    eventually(lambda: routes(cluster, namespace), "the route is made")
    lose_labels(cluster, namespace, "securitypolicies,backendtrafficpolicies", 2)
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, **ingress("f5", **ISSUER)))
    policies = ("-n", namespace, "get", "policies.k8s.nginx.org", "-o", "name")
    eventually(lambda: cluster.kubectl(*policies).split(), "the policies are made")
    count = len(cluster.kubectl(*policies).split()) + 1
    lose_labels(cluster, namespace, "policies.k8s.nginx.org,certificates.cert-manager.io", count)
