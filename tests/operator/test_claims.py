"""Devices of a DRA driver: claims by the real API server, allocated by the real scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from laws import exists, wait_for
from support import DEVICE_CLASS, DEVICES, DRIVER, Operator, eventually, smallest

pytestmark = pytest.mark.control_plane


def templates(cluster: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    return list(cluster.get("resourceclaimtemplates", "-n", namespace)["items"])


def test_a_claim_is_made_allocated_and_taken_back(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    cluster.apply(DEVICES)
    cluster.apply(smallest(namespace=namespace, gpu={"deviceClassName": DRIVER}))
    wait_for(cluster, namespace, "DeviceClassMissing")
    cluster.apply(DEVICE_CLASS)
    wait_for(cluster, namespace, "Ready")
    claim = cluster.get("resourceclaims", "-n", namespace)["items"][0]
    assert [found["device"] for found in claim["status"]["allocation"]["devices"]["results"]] == ["gpu-0"]
    pod = cluster.get("pods", "-n", namespace)["items"][0]["spec"]
    assert pod["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["requests"]
    assert cluster.get("zis", "studio", "-n", namespace)["status"]["gpu"] == f"1 {DRIVER} (claim)"
    # Two are more than there are. A template never changes: another claim is another object.
    old = templates(cluster, namespace)
    cluster.apply(smallest(namespace=namespace, gpu={"deviceClassName": DRIVER, "count": 2}))
    wait_for(cluster, namespace, "WaitingForGPU")
    new = templates(cluster, namespace)
    assert len(old) == len(new) == 1
    assert old[0]["metadata"]["name"] != new[0]["metadata"]["name"]
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}))
    wait_for(cluster, namespace, "Ready")
    eventually(lambda: templates(cluster, namespace) == [], "the template is gone")
    assert exists(cluster, namespace, "deploy")
