"""Replicas handed over to a real HorizontalPodAutoscaler and back, on the real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Api, ApiError
from cluster.control_plane import CommandFailed, ControlPlane
from cluster.metrics_api import MetricsApi
from laws import conditions, exists, serve, wait_for
from recorder import Recorder
from support import Operator, eventually, smallest

pytestmark = pytest.mark.control_plane
CPU = {"gpu": {"count": 0}}


def change(cluster: ControlPlane, namespace: str, **spec: Any) -> None:
    """Change a service as a user would; None takes a field out."""
    patch = json.dumps({"spec": spec})
    cluster.kubectl("-n", namespace, "patch", "zis", "studio", "--type=merge", "-p", patch)


def deployment(cluster: ControlPlane, namespace: str) -> dict[str, Any]:
    return cluster.get("deploy", "studio", "-n", namespace)


@pytest.fixture
def metrics(installed: ControlPlane, tmp_path: Path) -> Iterator[MetricsApi]:
    with MetricsApi(installed, tmp_path) as metrics:
        yield metrics


def test_a_worker_that_never_gets_ready_is_started(slow: str) -> None:
    """Here, in the first file: in the last one its deadline has passed (test_whole_run.py)."""
    assert slow


def test_an_autoscaler_takes_over_and_gives_back(operator: Operator, namespace: str, metrics: MetricsApi) -> None:
    cluster = operator.cluster
    metrics.values["zimage_queue_depth"] = 4
    history = Recorder(cluster, f"/apis/apps/v1/namespaces/{namespace}/deployments")
    serve(cluster, namespace, replicas=2, **CPU)
    change(cluster, namespace, replicas=None, autoscaling={"maxReplicas": 4, "targetQueueDepth": 4})
    eventually(lambda: exists(cluster, namespace, "hpa"), "the autoscaler is there")
    hpa = eventually(lambda: scaling_active(cluster, namespace), "it reads the workers' queues")
    assert hpa["spec"]["scaleTargetRef"]["kind"] == "Deployment"
    assert set(metrics.asked) == {"zimage_queue_depth"}
    # Four requests for each of two workers are right: nothing moves, and nothing had fallen to the default of one.
    history.catch_up()
    assert {item["spec"]["replicas"] for item in history.versions() if item["status"].get("replicas")} == {2}
    before = len(written(operator, namespace))
    metrics.values["zimage_queue_depth"] = 8
    eventually(lambda: cluster.get("zis", "studio", "-n", namespace)["status"]["readyReplicas"] == 4, "four workers")
    wait_for(cluster, namespace, "Ready")
    assert written(operator, namespace)[before:] == []
    assert not sends_replicas(operator, namespace)

    change(cluster, namespace, replicas=1, autoscaling=None)
    eventually(lambda: not exists(cluster, namespace, "hpa"), "the autoscaler is gone")
    eventually(lambda: deployment(cluster, namespace)["spec"]["replicas"] == 1, "the user's word counts again")
    assert sends_replicas(operator, namespace)


def scaling_active(cluster: ControlPlane, namespace: str) -> dict[str, Any] | None:
    hpa = cluster.get("hpa", "studio", "-n", namespace)
    found = {item["type"]: item["status"] for item in (hpa.get("status") or {}).get("conditions") or ()}
    return hpa if found.get("ScalingActive") == "True" else None


def written(operator: Operator, namespace: str) -> list[dict[str, Any]]:
    """The operator's writes of the Deployment."""
    return [
        entry
        for entry in operator.writes()
        if entry["objectRef"]["resource"] == "deployments" and entry["objectRef"].get("namespace") == namespace
    ]


def sends_replicas(operator: Operator, namespace: str) -> bool:
    """Whether its last apply under its own name says how many."""
    own = [entry for entry in written(operator, namespace) if "fieldManager=zimage-operator&" in entry["requestURI"]]
    return "replicas" in own[-1]["requestObject"]["spec"]


def test_what_was_stopped_starts_at_the_minimum(operator: Operator, namespace: str) -> None:
    """An autoscaler leaves alone what stands at zero: after a suspension somebody has to begin."""
    cluster = operator.cluster
    autoscaling = {"minReplicas": 2, "maxReplicas": 3}
    cluster.apply(smallest(namespace=namespace, suspend=True, autoscaling=autoscaling, **CPU))
    wait_for(cluster, namespace, "Suspended")
    assert not exists(cluster, namespace, "hpa")
    change(cluster, namespace, suspend=False)
    wait_for(cluster, namespace, "Ready")
    assert deployment(cluster, namespace)["spec"]["replicas"] == 2


def test_kubectl_scale_is_refused_beside_an_autoscaler_with_what_to_write(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    serve(cluster, namespace, autoscaling={"maxReplicas": 2}, **CPU)
    with pytest.raises(CommandFailed, match=r"remove spec\.replicas .*set autoscaling\.minReplicas instead"):
        cluster.kubectl("-n", namespace, "scale", "zis", "studio", "--replicas=3")
    # What reads the scale subresource (`kubectl scale --current-replicas`, KEDA) still can.
    cluster.kubectl("-n", namespace, "scale", "zis", "studio", "--current-replicas=1", "--replicas=1")
    # Another hand on the Deployment's replicas is the autoscaler's business, not ours.
    cluster.kubectl("-n", namespace, "scale", "deploy", "studio", "--replicas=2")
    eventually(lambda: deployment(cluster, namespace)["status"].get("readyReplicas") == 2, "it stays at two")
    wait_for(cluster, namespace, "Ready")
    assert conditions(cluster, namespace)["WorkloadReady"]["message"].startswith("2 of 2")


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_drain_is_let_through_one_worker_at_a_time(operator: Operator, namespace: str, replicas: int) -> None:
    """By the eviction API, as `kubectl drain` does it: one goes, the next waits for its replacement."""
    cluster = operator.cluster
    serve(cluster, namespace, replicas=replicas, **CPU)
    eventually(lambda: allowed(cluster, namespace) == 1, "the budget allows one")
    pods = [item["metadata"]["name"] for item in cluster.get("pods", "-n", namespace)["items"]]
    assert len(pods) == replicas
    api = Api(cluster.kubeconfig)
    # As a drain does first; here, so that no replacement is ready between the two questions.
    cluster.kubectl("cordon", "fake-0")
    try:
        evictions = [evict(api, namespace, name) for name in pods]
    finally:
        cluster.kubectl("uncordon", "fake-0")
    assert evictions == [201, 429][:replicas]
    wait_for(cluster, namespace, "Ready")


def allowed(cluster: ControlPlane, namespace: str) -> int:
    return int(cluster.get("pdb", "studio", "-n", namespace)["status"].get("disruptionsAllowed", 0))


def evict(api: Api, namespace: str, pod: str) -> int:
    """Ask for an eviction; give the HTTP status."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    try:
        api.request("POST", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", body)
    except ApiError as refused:
        return refused.status
    return 201
