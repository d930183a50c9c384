"""What the cluster refuses, caused for real: quota, limit range, nowhere to run; said, and mended."""

from __future__ import annotations

from typing import Any

import pytest

from laws import conditions, wait_for
from support import Operator, eventually, smallest

pytestmark = pytest.mark.control_plane


def quota(namespace: str) -> dict[str, Any]:
    head = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": namespace}}
    return {**head, "spec": {"hard": {"pods": "0"}}}


def limits(namespace: str) -> dict[str, Any]:
    head = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "none", "namespace": namespace}}
    return {**head, "spec": {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}}


@pytest.mark.parametrize(
    ("obstacle", "words"),
    [(quota, "exceeded quota: none"), (limits, "maximum memory usage per Container is 1Gi")],
)
def test_a_pod_that_the_cluster_refuses(operator: Operator, namespace: str, obstacle: Any, words: str) -> None:
    cluster = operator.cluster
    found = obstacle(namespace)
    cluster.apply(found)
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}))
    wait_for(cluster, namespace, "AdmissionRefused")
    ready = conditions(cluster, namespace)["Ready"]
    assert ready["status"] == "False"
    assert words in ready["message"]
    cluster.kubectl("-n", namespace, "delete", found["kind"], "none")
    wait_for(cluster, namespace, "Ready")


def test_nowhere_to_run(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    where = {"nodeSelector": {"nowhere": "yes"}}
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, scheduling=where))
    wait_for(cluster, namespace, "Unschedulable")
    assert "node affinity/selector" in conditions(cluster, namespace)["Ready"]["message"]
    spread = [{"topologyKey": "example.org/rack", "whenUnsatisfiable": "DoNotSchedule"}]
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, scheduling={"topologySpread": spread}))
    # It was unschedulable before, for the other reason.
    eventually(lambda: "topology spread" in conditions(cluster, namespace)["Ready"]["message"], "the new reason")
    wait_for(cluster, namespace, "Unschedulable")
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, scheduling={"topologySpread": []}))
    wait_for(cluster, namespace, "Ready")
