"""What each edge is told: no field does nothing, nobody is let in unasked, and what an edge says of it is read."""

from __future__ import annotations

from typing import Any

import pytest

from support import smallest
from zimage_operator.bounds import Bounds, check
from zimage_operator.edge import GATEWAYS, INGRESSES, Dialect, dialect, gateway, plain
from zimage_operator.entrances import Entrance, Entrances, Verdict, read_verdict
from zimage_operator.errors import InvalidSpec
from zimage_operator.manifest import Manifest
from zimage_operator.reconcile import described
from zimage_operator.spec import ZImageService, parse

OF_INGRESSES: list[Dialect] = [*INGRESSES.values(), plain]
OF_GATEWAYS: list[Dialect] = [*GATEWAYS.values(), gateway]
SAFE = INGRESSES["traefik.io/ingress-controller+safe-naming"]
DIALECTS = [*OF_INGRESSES, *OF_GATEWAYS]
PARENT = {"name": "edge", "namespace": "dmz", "sectionName": "https"}
JWT = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"secretName": "studio-jwks"}}
BASIC = {"basic": {"secretName": "studio-users"}}
TOKEN = {**BASIC, "token": {"enabled": True, "signingKeySecretName": "studio-signing"}}


def behind(edge: Dialect, auth: Any = None, **fields: Any) -> ZImageService:
    """A service behind an edge, with parts of its publication replaced."""
    host = {"host": "img.example.org", **fields}
    if edge in OF_GATEWAYS:
        return parse(
            smallest(namespace="team-a", auth=auth or BASIC, ingress=None, gateway={"parentRef": PARENT, **host})
        )
    ways = {"className": "edge", "tls": {"secretName": "img-tls"}}
    return parse(smallest(namespace="team-a", auth=auth or BASIC, ingress={**ways, **host}))


def told(edge: Dialect, service: ZImageService) -> list[Manifest]:
    return [*edge.helpers(service), *edge.routes(service)]


def test_envoy_tells_the_worker_whose_password_it_asks_about() -> None:
    """By itself it sends no address, and all guesses would be one client's (tests/peers has the real one)."""
    edge = GATEWAYS["gateway.envoyproxy.io/gatewayclass-controller"]
    (asking,) = (item["spec"]["extAuth"] for item in told(edge, behind(edge)) if "extAuth" in item["spec"])
    assert asking["headersToExtAuth"] == ["x-forwarded-for"]
    assert (asking["failOpen"], asking["statusOnError"]) == (False, 503)


# Each field with another value than its default, and under what name it is left to the workers.
FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "ranges": ({"allowedSourceRanges": ["192.0.2.0/24"]}, "allowedSourceRanges"),
    "rate": ({"rateLimit": {"requestsPerMinute": 7}}, "rateLimit"),
    "burst": ({"rateLimit": {"burst": 21}}, "rateLimit.burst"),
    "body": ({"maxBodySize": "1Mi"}, "maxBodySize"),
    "timeout": ({"readTimeoutSeconds": 601}, "readTimeoutSeconds"),
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("edge", DIALECTS, ids=lambda edge: edge.NAME)
def test_no_field_does_nothing(edge: Dialect, field: str) -> None:
    """It changes what the edge is told, or it is said whose it is, or the service is not published."""
    values, name = FIELDS[field]
    usual, changed = behind(edge), behind(edge, **values)
    left = name in edge.left(changed) or name.partition(".")[0] in edge.left(changed)
    assert (told(edge, usual) != told(edge, changed)) or left or edge.lacks(changed) == name
    # Only one of it: what an edge is told it does not also leave.
    assert not (edge.lacks(changed) and left)


@pytest.mark.parametrize("edge", DIALECTS, ids=lambda edge: edge.NAME)
def test_the_edge_asks_for_credentials_or_says_that_the_workers_do(edge: Dialect) -> None:
    for auth in (BASIC, {"jwt": JWT}, {**BASIC, "jwt": JWT}, TOKEN):
        service = behind(edge, auth)
        text = str(told(edge, service))
        asks = any(word in text for word in ("basicAuth", "forwardAuth", "auth-secret", "auth-url", "Auth': {"))
        assert asks != ("auth" in edge.left(service)), auth
    waived = behind(edge, {"mode": "None", "waiverReason": "a demonstration inside the office network"})
    assert not any(word in str(told(edge, waived)) for word in ("basicAuth", "forwardAuth", "auth-", "Auth': {"))


@pytest.mark.parametrize("edge", DIALECTS, ids=lambda edge: edge.NAME)
def test_post_token_alone_goes_unasked(edge: Dialect) -> None:
    routes = edge.routes(behind(edge, TOKEN))
    names = [item["metadata"]["name"] for item in routes]
    assert names in (["studio"], ["studio", "studio-token"])
    assert names[1:] or "auth" in edge.left(behind(edge, TOKEN))
    for item in routes[1:]:
        path = str(item["spec"]["rules"])
        assert "'/token'" in path
        assert "Exact" in path
        assert "studio-auth" not in str(item)


@pytest.mark.parametrize("edge", DIALECTS, ids=lambda edge: edge.NAME)
def test_nothing_crosses_a_namespace(edge: Dialect) -> None:
    """No ReferenceGrant is needed: the one reference to another namespace is to the Gateway, which decides itself."""
    for item in told(edge, behind(edge, {**BASIC, "jwt": JWT}, allowedSourceRanges=["192.0.2.0/24"])):
        assert item["metadata"]["namespace"] == "team-a"
        spec = {key: value for key, value in item["spec"].items() if key != "parentRefs"}
        assert "'namespace'" not in str(spec)


def test_the_class_says_how_traefik_names_its_middlewares() -> None:
    seen, service = Entrances(), behind(SAFE)
    item: Manifest = {"metadata": {"name": "edge"}, "spec": {"controller": "traefik.io/ingress-controller"}}
    seen.observe("IngressClass", item, deleted=False)
    assert dialect(service, seen.entrance(service).controller) is INGRESSES["traefik.io/ingress-controller"]
    noted = {"name": "edge", "annotations": {"zimage.dev/traefik-safe-naming": "true"}}
    assert seen.observe("IngressClass", {**item, "metadata": noted}, deleted=False) == {("edge",)}
    assert dialect(service, seen.entrance(service).controller) is SAFE
    notes = SAFE.routes(service)[0]["metadata"]["annotations"]
    assert "team-a_studio-auth@kubernetescrd" in notes["traefik.ingress.kubernetes.io/router.middlewares"].split(",")
    assert notes["traefik.ingress.kubernetes.io/router.tls.options"] == "team-a_studio-tls@kubernetescrd"


def test_ingress_nginx_is_told_of_its_end() -> None:
    edge = INGRESSES["k8s.io/ingress-nginx"]
    assert "March 2026" in edge.NOTE
    assert "move to" in edge.NOTE


def test_what_nobody_gives_keeps_the_route_away() -> None:
    service = behind(plain, allowedSourceRanges=["192.0.2.0/24"])
    seen = described(service, Entrance("example.org/other"), plain)
    assert (seen.reason, seen.unsafe) == ("DialectUnsupported", True)
    assert "allowedSourceRanges" in seen.message
    assert not described(behind(plain), Entrance("example.org/other"), plain).unsafe


GATEWAY_CLASS = {"kind": "GatewayClass", "metadata": {"name": "traefik"}, "spec": {"controllerName": "c"}}


def a_gateway(**listener: Any) -> Manifest:
    one = {"name": "https", "protocol": "HTTPS", "port": 443, **listener}
    return {
        "metadata": {"name": "edge", "namespace": "dmz"},
        "spec": {"gatewayClassName": "traefik", "listeners": [one]},
    }


@pytest.mark.parametrize(
    ("listener", "reason"),
    [
        ({}, ""),
        ({"tls": {"mode": "Terminate"}}, ""),
        ({"protocol": "HTTP"}, "ListenerNotHTTPS"),
        ({"protocol": "TLS"}, "ListenerNotHTTPS"),
        ({"tls": {"mode": "Passthrough"}}, "ListenerNotHTTPS"),
        ({"name": "other"}, "ListenerNotFound"),
    ],
)
def test_a_listener_ends_tls_or_nothing_is_published_there(listener: dict[str, Any], reason: str) -> None:
    seen, service = Entrances(), behind(gateway)
    assert seen.entrance(service).reason == "GatewayNotFound"
    assert seen.observe("Gateway", a_gateway(**listener), deleted=False) == {("dmz", "edge")}
    assert seen.entrance(service).reason == "ClassNotFound"
    assert seen.observe("GatewayClass", GATEWAY_CLASS, deleted=False) == {("dmz", "edge")}
    found = seen.entrance(service)
    assert (found.controller, found.reason, found.unsafe) == ("c", reason, bool(reason))
    # Its status changes with every route: no news.
    assert not seen.observe("Gateway", {**a_gateway(**listener), "status": {"addresses": []}}, deleted=False)
    assert seen.observe("Gateway", a_gateway(), deleted=True) == {("dmz", "edge")}
    assert seen.entrance(service).reason == "GatewayNotFound"


def condition(kind: str, status: str, generation: int = 2) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": "R", "message": "m", "observedGeneration": generation}


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ({}, Verdict("pending")),
        ({"parents": []}, Verdict("pending")),
        ({"parents": [{"conditions": [condition("Accepted", "True")]}]}, Verdict("accepted")),
        ({"parents": [{"conditions": [condition("Accepted", "True", 1)]}]}, Verdict("pending")),
        ({"parents": [{"conditions": [condition("Accepted", "False")]}]}, Verdict("refused", "R: m")),
        (
            {"parents": [{"conditions": [condition("Accepted", "True"), condition("ResolvedRefs", "False")]}]},
            Verdict("refused", "R: m"),
        ),
        ({"ancestors": [{"conditions": [condition("Accepted", "False")]}]}, Verdict("refused", "R: m")),
        ({"state": "Invalid", "message": "no such Service"}, Verdict("refused", "no such Service")),
        ({"state": "Valid", "message": "added"}, Verdict("accepted", "added")),
        ({"conditions": [condition("Ready", "True")]}, Verdict("accepted")),
        ({"conditions": [condition("Issuing", "True")]}, Verdict("pending")),
    ],
)
def test_what_the_edge_says_of_an_object_is_read(status: dict[str, Any], verdict: Verdict) -> None:
    assert read_verdict({"metadata": {"generation": 2}, "status": status}) == verdict


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "two ways in": (
        {"gateway": {"parentRef": PARENT, "host": "img.example.org"}},
        "either spec.ingress or spec.gateway",
    ),
    "no listener": (
        {"ingress": None, "gateway": {"parentRef": {"name": "edge"}, "host": "img.example.org"}},
        "sectionName",
    ),
    "an edge that is too quick": ({"generation": {"requestTimeoutSeconds": 700}}, "cut off"),
}


def test_an_edge_waits_as_long_as_a_worker_may_take() -> None:
    for name, (fields, message) in WRONG.items():
        with pytest.raises(InvalidSpec, match=message):
            parse(smallest(**fields))
        assert name
    for size in ("63Ki", "25Mi", "0", "1Gi"):
        with pytest.raises(InvalidSpec, match="maxBodySize from 64Ki to 24Mi"):
            behind(plain, maxBodySize=size)
    tls = {"secretName": "a", "issuerRef": {"name": "b"}}
    with pytest.raises(InvalidSpec, match="not both"):
        parse(smallest(ingress={"host": "img.example.org", "className": "a", "tls": tls}))


def test_the_bounds_of_hosts_hold_for_gateways_too() -> None:
    bounds = Bounds(hosts=(("team-a", ".other.example.org"),))
    with pytest.raises(InvalidSpec, match=r"spec\.gateway\.host"):
        check(behind(gateway), bounds)


def seen(name: str, controller: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"controller": controller}}


def test_what_the_administrator_tells_of_a_class_goes_before_what_the_class_says() -> None:
    """An ingress-nginx with a controller class of its own would be `plain`; what is told of others changes nothing."""
    known = Entrances()
    known.told = {"edge": "k8s.io/ingress-nginx"}
    service = behind(plain)
    for deleted in (False, True):
        known.observe("IngressClass", seen("edge", "k8s.io/internal"), deleted=deleted)
        assert known.entrance(service).controller == "k8s.io/ingress-nginx"
    known.told = {"other": "k8s.io/ingress-nginx"}
    assert known.entrance(service).reason == "ClassNotFound"
    known.observe("IngressClass", seen("edge", "k8s.io/internal"), deleted=False)
    assert known.entrance(service).controller == "k8s.io/internal"


@pytest.mark.parametrize("edge", DIALECTS, ids=lambda edge: edge.NAME)
def test_a_service_that_is_not_enabled_has_no_dialect(edge: Dialect) -> None:
    controller = next(iter(GATEWAYS if edge in OF_GATEWAYS else INGRESSES))
    assert dialect(behind(edge), controller)
    assert dialect(behind(edge, enabled=False), controller) is None
