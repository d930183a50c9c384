"""Applying the same manifest again changes nothing: `kubectl diff` and both ways of `kubectl apply`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from laws import wait_for
from support import Operator, smallest

pytestmark = pytest.mark.control_plane


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client side", "server side"])
def test_the_same_manifest_again_changes_nothing(operator: Operator, namespace: str, flags: tuple[str, ...]) -> None:
    cluster = operator.cluster
    text = json.dumps(smallest(namespace=namespace, replicas=0, ingress=None))
    cluster.kubectl("apply", *flags, "-f", "-", input=text)
    wait_for(cluster, namespace, "Ready")
    before = written(cluster, namespace)
    # Exit code 1, and so an exception, where there is a difference.
    assert cluster.kubectl("diff", *flags, "-f", "-", input=text) == ""
    for _ in range(2):
        said = cluster.kubectl("apply", *flags, "-f", "-", input=text)
        assert flags or "unchanged" in said
    assert written(cluster, namespace) == before


def written(cluster: ControlPlane, namespace: str) -> tuple[Any, ...]:
    """Everything but the status, which is the operator's: who wrote which field when, too."""
    item = cluster.get("zis", "studio", "-n", namespace, "--show-managed-fields")
    head = item["metadata"]
    managers = [entry for entry in head["managedFields"] if entry.get("subresource") != "status"]
    assert managers
    return item["spec"], head["generation"], head.get("annotations"), managers
