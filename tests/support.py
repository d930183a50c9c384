"""What the operator's tests share: the operator as its own ServiceAccount, against the real API server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cluster.control_plane import ControlPlane, free_ports

ROOT = Path(__file__).resolve().parents[1]
# Everything here is asynchronous on a noisy machine: generous, and asserted nowhere as a speed.
PATIENCE_SECONDS = 60.0

CLASS = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "IngressClass",
    "metadata": {"name": "traefik"},
    "spec": {"controller": "traefik.io/ingress-controller"},
}


def smallest(name: str = "studio", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """The smallest useful resource, with parts of its spec replaced (None: taken out)."""
    body: dict[str, Any] = {
        "model": {"persistentVolumeClaim": {"claimName": "z-image-turbo"}},
        "ingress": {"host": "img.example.org", "className": "traefik", "tls": {"secretName": "img-tls"}},
        "auth": {"basic": {"secretName": "studio-users"}},
        **spec,
    }
    return {
        "apiVersion": "zimage.dev/v1alpha1",
        "kind": "ZImageService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {key: value for key, value in body.items() if value is not None},
    }


T = TypeVar("T")


def eventually(what: Callable[[], T], message: str = "", seconds: float = PATIENCE_SECONDS) -> T:
    """Wait until `what` gives something true; its last answer is in the error."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        last = what()
        if last:
            return last
        time.sleep(0.1)
    raise AssertionError(f"{message or what}: not within {seconds:.0f} s, last seen {last!r}")


class Operator:
    """One operator process."""

    def __init__(
        self, cluster: ControlPlane, directory: Path, namespace: str = "zimage-system", **environment: str
    ) -> None:
        self.cluster, self.log, self.namespace = cluster, directory / "operator.log", namespace
        self.environment = environment
        self.kubeconfig = cluster.kubeconfig_for(namespace, "zimage-operator")
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> None:
        self.port = free_ports(1)[0]
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "ZIMAGE_OPERATOR_PORT": str(self.port),
            "ZIMAGE_OPERATOR_LOG_FORMAT": "json",
            "ZIMAGE_OPERATOR_NAMESPACE": self.namespace,
            **self.environment,
        }
        command = [sys.executable, "-m", "zimage_operator", "run"]
        environment["PYTHONPATH"] = str(ROOT / "operator")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)

    def stop(self) -> int:
        assert self.process
        self.process.terminate()
        return self.process.wait(30)

    def requests(self) -> list[dict[str, Any]]:
        """What this ServiceAccount asked of the API server, from the audit log."""
        user = f"system:serviceaccount:{self.namespace}:zimage-operator"
        # A request that was broken off before it was authenticated has no user.
        return [entry for entry in self.cluster.audit() if entry["user"].get("username") == user]

    def writes(self) -> list[dict[str, Any]]:
        """Its writes, without the Lease and the events."""
        aside = {"leases", "events"}
        verbs = {"create", "update", "patch", "delete", "deletecollection"}
        return [
            entry for entry in self.requests() if entry["verb"] in verbs and entry["objectRef"]["resource"] not in aside
        ]


def claim(cluster: ControlPlane, namespace: str, name: str = "z-image-turbo") -> None:
    """A volume and its claim, bound to each other by name."""
    size = {"storage": "1Gi"}
    volume = f"{namespace}-{name}"
    shared = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    source = {"path": "/nowhere-on-a-fake-node"}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {**shared, "capacity": size, "hostPath": source},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {**shared, "resources": {"requests": size}, "volumeName": volume},
        },
    )
