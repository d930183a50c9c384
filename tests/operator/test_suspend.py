"""No worker, no route, and back; and a service of no workers at all."""

from __future__ import annotations

import pytest

from cluster.control_plane import ControlPlane
from laws import conditions, exists, serve, wait_for
from recorder import Recorder
from support import Operator, eventually, published, smallest

pytestmark = pytest.mark.control_plane
CPU = {"gpu": {"count": 0}}
STAYS = ("netpol", "sa", "cm", "deploy", "svc", "pdb")


def suspend(cluster: ControlPlane, namespace: str, wanted: str) -> None:
    patch = f'{{"spec": {{"suspend": {wanted}}}}}'
    cluster.kubectl("-n", namespace, "patch", "zis", "studio", "--type=merge", "-p", patch)


def test_suspend_stops_everything_and_keeps_what_is_set_up(
    operator: Operator, namespace: str, statuses: Recorder
) -> None:
    cluster = operator.cluster
    serve(cluster, namespace, **CPU)
    # The worker takes its time to end.
    cluster.kubectl("-n", namespace, "annotate", "pods", "--all", "fakenode/term=2")
    suspend(cluster, namespace, "true")
    wait_for(cluster, namespace, "Suspended")
    found = conditions(cluster, namespace)
    assert {(item["type"], item["status"]) for item in found.values()} == {
        ("Ready", "True"),
        ("Suspended", "True"),
        ("NetworkPolicyReady", "True"),
        ("ExposureAsDeclared", "True"),
    }
    assert cluster.get("pods", "-n", namespace)["items"] == []
    assert not exists(cluster, namespace, "ing")
    assert all(exists(cluster, namespace, kind) for kind in STAYS)
    status = cluster.get("zis", "studio", "-n", namespace)["status"]
    assert "url" not in status
    assert status["replicas"] == 0
    # Not before: on the way there it said so.
    statuses.catch_up()
    passed = [reason(item["status"]) for item in statuses.versions(namespace)]
    assert "Stopping" in passed
    suspend(cluster, namespace, "false")
    wait_for(cluster, namespace, "Ready")
    assert exists(cluster, namespace, "ing")
    assert "Suspended" not in conditions(cluster, namespace)


def reason(status: dict[str, list[dict[str, str]]]) -> str:
    return next((item["reason"] for item in status.get("conditions", []) if item["type"] == "Ready"), "")


def test_suspend_needs_no_policy_and_no_class(operator: Operator, namespace: str) -> None:
    """Stopping is never held up: not by a name that is taken, not by a class that is gone."""
    cluster = operator.cluster
    late = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": f"gone-{namespace}"}}
    cluster.apply(late | {"spec": {"controller": "traefik.io/ingress-controller"}})
    ingress = {"host": "img.example.org", "className": f"gone-{namespace}", "tls": {"secretName": "img-tls"}}
    serve(cluster, namespace, ingress=ingress, **CPU)
    cluster.kubectl("delete", "ingressclass", f"gone-{namespace}")
    wait_for(cluster, namespace, "ClassNotFound")
    # The policy is made somebody else's.
    owners = '[{"op": "remove", "path": "/metadata/ownerReferences"}]'
    cluster.kubectl("-n", namespace, "patch", "netpol", "studio", "--type=json", "-p", owners)
    wait_for(cluster, namespace, "NotOwned", "NetworkPolicyReady")
    suspend(cluster, namespace, "true")
    eventually(lambda: cluster.get("pods", "-n", namespace)["items"] == [], "no worker is left")
    eventually(lambda: not exists(cluster, namespace, "ing"), "no route is left")
    wait_for(cluster, namespace, "NotOwned", "NetworkPolicyReady")
    cluster.kubectl("-n", namespace, "delete", "netpol", "studio")
    wait_for(cluster, namespace, "Suspended")


def test_what_cannot_be_stopped_is_said_and_what_comes_after_it_is_still_to_be_applied(
    operator: Operator, namespace: str
) -> None:
    """Stopping comes before all else: a workload that is somebody else's holds up the policy of no pod."""
    cluster = operator.cluster
    cluster.kubectl("-n", namespace, "create", "deployment", "studio", "--image=localhost/nothing:1", "--replicas=0")
    cluster.apply(smallest(namespace=namespace, suspend=True, **CPU))
    wait_for(cluster, namespace, "NotOwned")
    found = conditions(cluster, namespace)["NetworkPolicyReady"]
    assert (found["status"], found["reason"]) == ("Unknown", "Applying")
    assert not exists(cluster, namespace, "netpol")
    cluster.kubectl("-n", namespace, "delete", "deployment", "studio")
    wait_for(cluster, namespace, "Suspended")
    assert exists(cluster, namespace, "netpol")


def enable(cluster: ControlPlane, namespace: str, wanted: str) -> None:
    patch = f'{{"spec": {{"ingress": {{"enabled": {wanted}}}}}}}'
    cluster.kubectl("-n", namespace, "patch", "zis", "studio", "--type=merge", "-p", patch)


def test_a_route_is_taken_away_and_no_worker_restarts(operator: Operator, namespace: str) -> None:
    cluster, host = operator.cluster, published(f"{namespace}.example.org")
    serve(cluster, namespace, ingress=host, **CPU)
    before = pods(cluster, namespace)
    enable(cluster, namespace, "false")
    eventually(
        lambda: not cluster.kubectl("-n", namespace, "get", "ing,middleware,tlsoption", "-o", "name"), "no route"
    )
    eventually(lambda: "IngressReady" not in conditions(cluster, namespace), "it was seen")
    body = cluster.get("zis", "studio", "-n", namespace)
    assert "url" not in body["status"]
    assert {"CertificateReady", "IngressReady"} & set(conditions(cluster, namespace)) == set()
    ready = conditions(cluster, namespace)["Ready"]
    assert (ready["status"], ready["message"]) == ("True", "serving, inside the cluster only for now (enabled: false)")
    # The host is free for another one meanwhile, and goes back to the older when that wants it again.
    cluster.apply(smallest("heir", namespace, ingress=host, **CPU))
    wait_for(cluster, namespace, "Ready", name="heir")
    wait_for(cluster, namespace, "Published", "IngressReady", name="heir")
    enable(cluster, namespace, "true")
    wait_for(cluster, namespace, "HostConflict", "IngressReady", name="heir")
    wait_for(cluster, namespace, "Published", "IngressReady")
    cluster.kubectl("-n", namespace, "delete", "zis", "heir")
    assert pods(cluster, namespace) >= before


def pods(cluster: ControlPlane, namespace: str) -> set[str]:
    return {item["metadata"]["uid"] for item in cluster.get("pods", "-n", namespace)["items"]}


def test_a_service_can_begin_suspended_or_with_none(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    second = {"replicas": 0, "ingress": published("none.example.org"), **CPU}
    cluster.apply(smallest("never", namespace, suspend=True, **CPU), smallest("none", namespace, **second))
    wait_for(cluster, namespace, "Suspended", name="never")
    wait_for(cluster, namespace, "Ready", name="none")
    wait_for(cluster, namespace, "ScaledToZero", "WorkloadReady", name="none")
    assert cluster.get("pods", "-n", namespace)["items"] == []


def test_a_rolling_update_never_goes_below_what_is_asked_for(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    history = Recorder(cluster, f"/apis/apps/v1/namespaces/{namespace}/deployments")
    rolling = {"rollout": {"strategy": "RollingUpdate"}, **CPU}
    serve(cluster, namespace, **rolling)
    history.catch_up()
    began = len(history.versions())
    cluster.apply(smallest(namespace=namespace, generation={"maxSteps": 8}, **rolling))
    eventually(lambda: conditions(cluster, namespace)["Ready"]["observedGeneration"] == 2, "it was seen")
    wait_for(cluster, namespace, "Ready")
    history.catch_up()
    assert min(item["status"].get("availableReplicas", 0) for item in history.versions()[began:]) >= 1
