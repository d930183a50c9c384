"""A download on the fake node: its volume, and its last word, which a test gives."""

from __future__ import annotations

import json
from typing import Any

from cluster.control_plane import ControlPlane
from support import eventually

SELECTOR = "app.kubernetes.io/component=download"


def room(cluster: ControlPlane, namespace: str, name: str = "studio-model") -> None:
    """A volume for the claim that the operator makes: nothing provisions any here."""
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "capacity": {"storage": "60Gi"},
        "hostPath": {"path": "/nowhere-on-a-fake-node"},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name},
    }
    head = {"name": f"{namespace}-{name}"}
    cluster.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": head, "spec": spec})


def fetching(cluster: ControlPlane, namespace: str, revision: str) -> str:
    """The pod that fetches a model, once it runs; empty before."""
    pods = cluster.get("pods", "-n", namespace, "-l", SELECTOR, "--field-selector", "status.phase=Running")["items"]
    names = [
        item["metadata"]["name"]
        for item in pods
        if revision in item["spec"]["containers"][0]["args"] and not item["metadata"].get("deletionTimestamp")
    ]
    return names[0] if names else ""


def finish(cluster: ControlPlane, namespace: str, revision: str, code: int = 0, **report: Any) -> None:
    """Let the running fetch of a model end, with its last word."""
    pod = eventually(lambda: fetching(cluster, namespace, revision), "the fetch runs")
    word = json.dumps({"phase": "ended", "exitCode": code, **report})
    cluster.kubectl("-n", namespace, "annotate", "pod", pod, f"fakenode/exit={code}", f"fakenode/message={word}")
