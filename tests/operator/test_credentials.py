"""Generated credentials against the real API server and its garbage collector; nothing of a Secret is ever read."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from contextlib import suppress
from typing import Any
from urllib.request import urlopen

import bcrypt
import pytest

from cluster.api import Api, ApiError
from cluster.control_plane import ControlPlane
from laws import exists, wait_for
from support import Operator, eventually, published, smallest

pytestmark = pytest.mark.control_plane

GENERATE = {"basic": {"generate": True}}
PAIR = ("studio-basic-auth", "studio-credentials")


def secret(cluster: ControlPlane, namespace: str, name: str) -> dict[str, Any] | None:
    text = cluster.kubectl("-n", namespace, "get", "secret", name, "--ignore-not-found", "-o", "json")
    return json.loads(text) if text.strip() else None


def decoded(item: dict[str, Any]) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in item["data"].items()}


def password_of(cluster: ControlPlane, namespace: str) -> str:
    """The generated password, once both Secrets are there and belong together; empty before."""
    basic, shown = (secret(cluster, namespace, name) for name in PAIR)
    if not basic or not shown:
        return ""
    login = decoded(shown)
    user, _, hashed = decoded(basic)["auth"].strip().partition(":")
    fits = user == login["username"] and bcrypt.checkpw(login["password"].encode(), hashed.encode())
    return login["password"] if fits else ""


def renewed(cluster: ControlPlane, namespace: str, old: str) -> str:
    """The password, once it is another one."""
    found = password_of(cluster, namespace)
    return "" if found == old else found


def condition(cluster: ControlPlane, namespace: str, type_: str = "AuthConfigured") -> dict[str, Any]:
    conditions = cluster.get("zis", "studio", "-n", namespace)["status"].get("conditions", [])
    return next((item for item in conditions if item["type"] == type_), {})


def ready(cluster: ControlPlane, namespace: str) -> bool:
    return condition(cluster, namespace, "Ready").get("status") == "True"


def serve(cluster: ControlPlane, namespace: str, **spec: Any) -> str:
    cluster.apply(smallest(namespace=namespace, auth=GENERATE, gpu={"count": 0}, **spec))
    eventually(lambda: ready(cluster, namespace), f"ready: {condition(cluster, namespace)}")
    return eventually(lambda: password_of(cluster, namespace), "both Secrets are there and belong together")


def test_two_secrets_are_made_and_said_in_an_event_without_the_password(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    password = serve(cluster, namespace)
    basic, shown = (secret(cluster, namespace, name) for name in PAIR)
    assert basic
    assert shown
    assert (basic["type"], set(basic["data"])) == ("Opaque", {"auth"})
    assert (shown["type"], set(shown["data"])) == ("kubernetes.io/basic-auth", {"username", "password"})
    # Traefik and the worker take bcrypt alone; 192 bits are beyond guessing.
    assert decoded(basic)["auth"].startswith("zimage:$2b$10$")
    assert len(password) >= 32
    described = eventually(
        lambda: (
            text
            if "CredentialsIssued" in (text := cluster.kubectl("-n", namespace, "get", "events", "-o", "json"))
            else ""
        ),
        "an event tells",
    )
    assert (
        f"kubectl -n {namespace} get secret studio-credentials -o jsonpath='{{.data.password}}' | base64 -d"
        in described
    )
    assert password not in described
    # The command of the event is one that works.
    assert cluster.kubectl(
        "-n", namespace, "get", "secret", "studio-credentials", "-o", "jsonpath={.data.password}"
    ) == (base64.b64encode(password.encode()).decode())
    receipt = cluster.get("cm", "studio-credentials-receipt", "-n", namespace)
    assert receipt["data"]["sha256"] == hashlib.sha256(decoded(basic)["auth"].encode()).hexdigest()
    pod = cluster.get("deploy", "studio", "-n", namespace)["spec"]["template"]["spec"]
    assert "studio-basic-auth" in [volume.get("secret", {}).get("secretName") for volume in pod["volumes"]]
    middleware = cluster.get("middleware", "studio-auth", "-n", namespace)
    assert middleware["spec"]["basicAuth"]["secret"] == "studio-basic-auth"


@pytest.mark.parametrize("victim", [*PAIR, "both"])
def test_a_deleted_one_is_made_anew_with_its_partner(operator: Operator, namespace: str, victim: str) -> None:
    """Neither may be read and neither changed: the pair is made anew, and the old password opens nothing."""
    cluster = operator.cluster
    old = serve(cluster, namespace)
    pods = {pod["metadata"]["uid"] for pod in cluster.get("pods", "-n", namespace)["items"]}
    cluster.kubectl(
        "-n", namespace, "delete", "secret", "--ignore-not-found", *(PAIR if victim == "both" else [victim])
    )
    new = eventually(lambda: renewed(cluster, namespace, old), "a new pair")
    basic = secret(cluster, namespace, PAIR[0])
    assert basic
    assert not bcrypt.checkpw(old.encode(), decoded(basic)["auth"].strip().partition(":")[2].encode())
    eventually(lambda: ready(cluster, namespace), "ready again")
    # No GPU was given up for it.
    assert {pod["metadata"]["uid"] for pod in cluster.get("pods", "-n", namespace)["items"]} == pods
    assert new == password_of(cluster, namespace)


def test_a_restart_keeps_them(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    password = serve(cluster, namespace)
    assert operator.stop() == 0
    operator.start()
    count = len(operator.writes())
    cluster.kubectl("-n", namespace, "patch", "zis", "studio", "--type=merge", "-p", '{"spec":{"replicas":0}}')
    eventually(
        lambda: condition(cluster, namespace, "WorkloadReady").get("reason") == "ScaledToZero", "the new one acts"
    )
    assert password_of(cluster, namespace) == password
    assert not [entry for entry in operator.writes()[count:] if entry["objectRef"]["resource"] == "secrets"]


def test_a_pair_that_a_crash_cut_short_is_made_anew(operator: Operator, namespace: str) -> None:
    """As if the operator had died between the second Secret and the receipt: nobody knows whether both stand."""
    cluster = operator.cluster
    old = serve(cluster, namespace)
    cluster.kubectl("-n", namespace, "delete", "cm", "studio-credentials-receipt")
    eventually(lambda: renewed(cluster, namespace, old), "a new pair")


@pytest.mark.parametrize("taken", PAIR)
def test_a_foreign_secret_of_the_name_is_left_alone_and_no_worker_runs_with_it(
    operator: Operator, namespace: str, taken: str
) -> None:
    cluster = operator.cluster
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": taken, "namespace": namespace}}
    cluster.apply({**theirs, "stringData": {"auth": "mallory:$2b$10$" + "a" * 53}})
    cluster.apply(smallest(namespace=namespace, auth=GENERATE, gpu={"count": 0}))
    eventually(lambda: condition(cluster, namespace).get("reason") == "NotOwned", "the taken name is reported")
    assert f"kubectl -n {namespace} delete secret {taken}" in condition(cluster, namespace)["message"]
    assert "mallory" in decoded(secret(cluster, namespace, taken) or {})["auth"]
    for kind in ("deploy", "ing"):
        assert not cluster.kubectl("-n", namespace, "get", kind, "studio", "--ignore-not-found", "-o", "name")
    # Nothing is written while it waits.
    before = len(operator.writes())
    time.sleep(6)
    mine = [entry for entry in operator.writes()[before:] if entry["objectRef"].get("namespace") == namespace]
    assert {(entry["verb"], entry["responseStatus"]["code"]) for entry in mine} <= {("create", 409), ("create", 201)}
    assert all("dryRun=All" in entry["requestURI"] for entry in mine)
    cluster.kubectl("-n", namespace, "delete", "secret", taken)
    eventually(lambda: ready(cluster, namespace), "ready without it")
    assert password_of(cluster, namespace)


def test_stopping_is_not_held_up_by_a_name_that_is_taken(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": PAIR[0], "namespace": namespace}}
    cluster.apply({**theirs, "stringData": {"auth": "mallory:x"}})
    cluster.apply(smallest(namespace=namespace, auth=GENERATE, gpu={"count": 0}, suspend=True))
    eventually(lambda: condition(cluster, namespace, "Ready").get("reason") == "Suspended", "suspended")
    assert cluster.get("deploy", "studio", "-n", namespace)["spec"]["replicas"] == 0


# Two services at once: the garbage collector's 20 seconds are waited for once.
SCALING: dict[str, dict[str, Any]] = {
    "studio": {"ingress": published("img.example.org")},
    "scaled": {"ingress": published("scaled.example.org"), "autoscaling": {"maxReplicas": 2}},
}


def test_a_secret_that_was_replaced_stops_the_workers_and_the_route(operator: Operator, namespace: str) -> None:
    """The kubelet would bring the foreign users into the running worker within a minute."""
    cluster, api = operator.cluster, Api(operator.cluster.kubeconfig)
    processor = {"auth": GENERATE, "gpu": {"count": 0}}
    cluster.apply(*(smallest(name, namespace, **processor, **spec) for name, spec in SCALING.items()))
    for name in SCALING:
        wait_for(cluster, namespace, "Ready", name=name)
        head = {"name": f"{name}-basic-auth", "namespace": namespace}
        theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": head, "stringData": {"auth": "mallory:x"}}
        eventually(lambda item=theirs: replaced(api, item), "theirs is there")  # type: ignore[misc]
    for name in SCALING:
        wait_for(cluster, namespace, "NotOwned", "AuthConfigured", name)
        eventually(lambda name=name: replicas(cluster, namespace, name) == 0, "no worker runs")  # type: ignore[misc]
        eventually(lambda name=name: not exists(cluster, namespace, "ing", name), "no route")  # type: ignore[misc]
        cluster.kubectl("-n", namespace, "delete", "secret", f"{name}-basic-auth")
    for name in SCALING:
        wait_for(cluster, namespace, "Ready", name=name)
        assert replicas(cluster, namespace, name) == 1


def replicas(cluster: ControlPlane, namespace: str, name: str) -> int:
    return int(cluster.get("deploy", name, "-n", namespace)["spec"]["replicas"])


def replaced(api: Api, item: dict[str, Any]) -> bool:
    """Win the race against the operator, which makes its own anew within a moment: no program has to start first."""
    head = item["metadata"]
    path = f"/api/v1/namespaces/{head['namespace']}/secrets"
    with suppress(ApiError):
        api.request("DELETE", f"{path}/{head['name']}")
    try:
        api.request("POST", path, item)
    except ApiError:
        return False
    return True


def test_no_longer_generated_means_no_longer_there(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    serve(cluster, namespace)
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}))
    eventually(lambda: not any(secret(cluster, namespace, name) for name in PAIR), "both are gone")
    maps = cluster.kubectl("-n", namespace, "get", "cm", "-l", "app.kubernetes.io/instance=studio", "-o", "name")
    eventually(
        lambda: "credentials" not in maps or "credentials" not in cluster.kubectl("-n", namespace, "get", "cm"),
        "and what they hung on",
    )
    assert cluster.get("middleware", "studio-auth", "-n", namespace)["spec"]["basicAuth"]["secret"] == "studio-users"


def test_the_resource_takes_them_along(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    serve(cluster, namespace)
    cluster.kubectl("-n", namespace, "delete", "zis", "studio")
    eventually(lambda: not any(secret(cluster, namespace, name) for name in PAIR), "both are gone")


def test_no_secret_is_anywhere_but_in_its_secret(operator: Operator, namespace: str) -> None:
    """A canary in every place where an operator talks: logs, events, objects, metrics, bodies in the audit log."""
    cluster = operator.cluster
    given = "canary-" + "c" * 24
    hidden = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "studio-jwks", "namespace": namespace}}
    cluster.apply({**hidden, "stringData": {"jwks.json": given}})
    jwt = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"secretName": "studio-jwks"}}
    cluster.apply(smallest(namespace=namespace, auth={**GENERATE, "jwt": jwt}, gpu={"count": 0}))
    first = eventually(lambda: password_of(cluster, namespace), "a password")
    cluster.kubectl("-n", namespace, "delete", "secret", PAIR[1])
    second = eventually(
        lambda: found if (found := password_of(cluster, namespace)) not in ("", first) else "", "another"
    )
    hashed = decoded(secret(cluster, namespace, PAIR[0]) or {})["auth"].strip().partition(":")[2]
    eventually(lambda: ready(cluster, namespace), "ready")
    kinds = "zis,events,cm,deploy,rs,pods,svc,ing,netpol,sa,middleware,tlsoption"
    places = {
        "log": operator.log.read_text(),
        "audit log": (cluster.kubeconfig.parent / "audit.log").read_text(),
        "objects": cluster.kubectl("-n", namespace, "get", kinds, "-o", "json", "--show-managed-fields"),
        "metrics": urlopen(f"http://127.0.0.1:{operator.port}/metrics").read().decode(),
    }
    assert all(namespace in text for name, text in places.items() if name != "log")
    for canary in (given, first, second, hashed):
        # As it is, and as Kubernetes writes it down in a Secret.
        forms = {canary, base64.b64encode(canary.encode()).decode()}
        assert {name for name, text in places.items() if any(form in text for form in forms)} == set()


def test_secrets_are_created_and_nothing_else(operator: Operator) -> None:
    """The last test of this file: off the audit log of all before it."""
    asked = [entry for entry in operator.requests() if entry.get("objectRef", {}).get("resource") == "secrets"]
    assert asked
    assert {entry["verb"] for entry in asked} == {"create"}
