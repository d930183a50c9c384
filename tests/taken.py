"""Names that somebody else has, and labels that were lost: what the operator can find by name only."""

from __future__ import annotations

from typing import Any

from cluster.control_plane import ControlPlane
from laws import conditions, wait_for
from support import eventually

LABEL = "app.kubernetes.io/managed-by"
SELECTOR = f"{LABEL}=zimage-operator"
NETWORKING = "networking.k8s.io/v1"
# In the order in which the operator comes to them; of these it is shown everybody's.
FOREIGN: dict[str, dict[str, Any]] = {
    "NetworkPolicy": {"apiVersion": NETWORKING, "spec": {"podSelector": {"matchLabels": {"app": "another"}}}},
    "Service": {"apiVersion": "v1", "spec": {"ports": [{"port": 80}]}},
    "Ingress": {
        "apiVersion": NETWORKING,
        "spec": {"defaultBackend": {"service": {"name": "another", "port": {"number": 80}}}},
    },
}


def take(cluster: ControlPlane, namespace: str, name: str) -> None:
    """Give a service's name to objects of somebody else."""
    head = {"name": name, "namespace": namespace}
    cluster.apply(*({**item, "kind": kind, "metadata": head} for kind, item in FOREIGN.items()))


def give_back(cluster: ControlPlane, namespace: str, name: str) -> None:
    """See that each is named and left alone, and take it away."""
    for kind in FOREIGN:
        target = (kind.lower(), name, "-n", namespace)
        wanted = f"{kind} {name} exists and does not belong"
        eventually(lambda wanted=wanted: wanted in told(cluster, namespace, name), f"{kind} is in the way")
        assert "ownerReferences" not in cluster.get(*target)["metadata"]
        assert cluster.get(*target)["metadata"].get("labels") is None
        cluster.kubectl("delete", *target)
    wait_for(cluster, namespace, "Ready", name=name)


def told(cluster: ControlPlane, namespace: str, name: str) -> str:
    return str(conditions(cluster, namespace, name).get("Ready", {}).get("message", ""))


def lose_labels(cluster: ControlPlane, namespace: str, kinds: str, count: int) -> None:
    """Take the label by which the watches find them off all children, and see it come back."""

    def labelled() -> set[str]:
        return set(cluster.kubectl("-n", namespace, "get", kinds, "-l", SELECTOR, "-o", "name").split())

    before = labelled()
    assert len(before) == count
    cluster.kubectl("-n", namespace, "label", kinds, "-l", SELECTOR, f"{LABEL}-")
    eventually(lambda: labelled() == before, "the labels are back")
