"""From one way of signing in to another: at no revision of any object is the route without its protection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from laws import reason
from recorder import Recorder
from support import Operator, eventually, smallest

pytestmark = pytest.mark.control_plane

JWT = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"secretName": "studio-jwks"}}
BASIC = {"basic": {"secretName": "studio-users"}}
TOKEN = {"token": {"enabled": True, "signingKeySecretName": "studio-signing"}}
# The way through all modes, and who checks the credentials at the edge in each.
WAY: list[tuple[dict[str, Any], str, str]] = [
    (BASIC, "Basic", "basicAuth"),
    ({"jwt": JWT}, "JWT", "forwardAuth"),
    ({**BASIC, "jwt": JWT}, "Any", "forwardAuth"),
    ({**BASIC, **TOKEN}, "Basic", "forwardAuth"),
    ({"basic": {"generate": True}}, "Basic", "basicAuth"),
    ({"mode": "JWT", **BASIC, **TOKEN}, "JWT", "forwardAuth"),
    (BASIC, "Basic", "basicAuth"),
]
OPEN = {"mode": "None", "waiverReason": "a demonstration inside the office network"}
PATHS = (
    "/apis/networking.k8s.io/v1/namespaces/{}/ingresses",
    "/apis/traefik.io/v1alpha1/namespaces/{}/middlewares",
)


@contextmanager
def watched(cluster: ControlPlane, namespace: str) -> Iterator[list[dict[str, Any]]]:
    """Every revision of the routes and the Middlewares of a namespace, in order, once the block is left."""
    events: list[dict[str, Any]] = []
    streams = [Recorder(cluster, path.format(namespace)) for path in PATHS]
    yield events
    for stream in streams:
        stream.catch_up()
        events += [{"type": kind, "object": item} for kind, item in stream.events]
    # Resource versions of one etcd are comparable across kinds.
    events.sort(key=lambda event: int(event["object"]["metadata"]["resourceVersion"]))


def sign_in(cluster: ControlPlane, namespace: str, auth: dict[str, Any], mode: str, checker: str) -> None:
    """Change the way of signing in, and wait until the edge has it."""
    cluster.apply(smallest(namespace=namespace, auth=auth, gpu={"count": 0}))

    def reached() -> bool:
        body = cluster.get("zis", "studio", "-n", namespace)
        status = body["status"]
        current = status["observedGeneration"] == body["metadata"]["generation"]
        ready = [item["status"] for item in status.get("conditions", []) if item["type"] == "Ready"]
        return current and status.get("auth") == mode and ready == ["True"]

    eventually(reached, f"{mode} is in force")
    # No route of ours, /token's neither, is taken for somebody else's.
    assert reason(cluster, namespace, "ExposureAsDeclared") == "AsDeclared"
    if checker:
        spec = cluster.get("middleware", "studio-auth", "-n", namespace)["spec"]
        assert list(spec) == [checker]


def chain(ingress: dict[str, Any]) -> list[str]:
    text = ingress["metadata"]["annotations"]["traefik.ingress.kubernetes.io/router.middlewares"]
    return [name.removesuffix("@kubernetescrd") for name in text.split(",")]


def test_no_revision_is_without_protection(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    with watched(cluster, namespace) as events:
        for auth, mode, checker in WAY:
            sign_in(cluster, namespace, auth, mode, checker)
            tokens = cluster.kubectl("-n", namespace, "get", "ing", "studio-token", "--ignore-not-found", "-o", "name")
            assert bool(tokens) == ("token" in auth)
    there: dict[tuple[str, str], dict[str, Any]] = {}
    for event in events:
        item = event["object"]
        key = (item["kind"], item["metadata"]["name"])
        if event["type"] == "DELETED":
            del there[key]
        else:
            there[key] = item
        assert_protected(there, namespace)
    assert len({event["object"]["kind"] for event in events}) == 2
    changes = [event for event in events if event["object"]["metadata"]["name"] == "studio-auth"]
    # Made once, and changed in place where another one checks: between modes that ask the worker nothing is.
    assert [event["type"] for event in changes] == ["ADDED", *["MODIFIED"] * 4]


def assert_protected(there: dict[tuple[str, str], dict[str, Any]], namespace: str) -> None:
    """Every Middleware that a route names exists, and asks for credentials in exactly one way."""
    for (kind, name), item in there.items():
        if kind != "Ingress":
            continue
        for wanted in chain(item):
            assert ("Middleware", wanted.removeprefix(f"{namespace}-")) in there, f"{name} names {wanted}"
        asked = f"{namespace}-studio-auth" in chain(item)
        paths = [path["path"] for rule in item["spec"]["rules"] for path in rule["http"]["paths"]]
        # /token is where a password is shown: it is exactly this path, and nothing below it.
        assert asked or (name == "studio-token" and paths == ["/token"]), f"{name} asks nobody"
        assert asked or item["spec"]["rules"][0]["http"]["paths"][0]["pathType"] == "Exact"
    auth = there.get(("Middleware", "studio-auth"))
    assert auth is None or list(auth["spec"]) in (["basicAuth"], ["forwardAuth"])


def test_an_open_service_is_closed_before_anything_else_and_opened_last(operator: Operator, namespace: str) -> None:
    """The Middleware stands before a route names it, and goes after the last route that named it."""
    cluster = operator.cluster
    with watched(cluster, namespace) as events:
        sign_in(cluster, namespace, OPEN, "None", "")
        sign_in(cluster, namespace, BASIC, "Basic", "basicAuth")
        sign_in(cluster, namespace, OPEN, "None", "")
        eventually(lambda: "studio-auth" not in cluster.kubectl("-n", namespace, "get", "middleware", "-o", "name"))
    told = []
    for event in events:
        item, name = event["object"], event["object"]["metadata"]["name"]
        if name == "studio-auth":
            told.append(f"auth {event['type']}")
        elif item["kind"] == "Ingress":
            told.append("asking" if f"{namespace}-studio-auth" in chain(item) else "open")
    order = [word for word, before in zip(told, ["", *told], strict=False) if word != before]
    assert order == ["open", "auth ADDED", "asking", "open", "auth DELETED"]


def test_the_edge_asks_the_worker_in_the_resources_own_namespace(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    sign_in(cluster, namespace, {"jwt": JWT}, "JWT", "forwardAuth")
    asked = cluster.get("middleware", "studio-auth", "-n", namespace)["spec"]["forwardAuth"]
    assert asked["address"] == f"http://studio.{namespace}.svc:7860/auth/verify"
    # Whatever a client calls itself is not passed on, and nothing but its credentials is.
    assert not asked.get("trustForwardHeader")
    assert asked["authRequestHeaders"] == ["Authorization"]
    hosts = cluster.get("cm", "studio", "-n", namespace)["data"]["ZIMAGE_ALLOWED_HOSTS"].split(",")
    assert f"studio.{namespace}.svc" in hosts
