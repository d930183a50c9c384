"""What the operator's tests share: the operator as its own ServiceAccount, against the real API server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
import yaml

from cluster.control_plane import ControlPlane
from cluster.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
# Everything here is asynchronous on a noisy machine: generous, and asserted nowhere as a speed.
PATIENCE_SECONDS = 60.0

CLASS = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "IngressClass",
    "metadata": {"name": "traefik"},
    "spec": {"controller": "traefik.io/ingress-controller"},
}


# A DRA driver on the fake node, as it would announce itself: one GPU.
DRIVER = "gpu.example.com"
DEVICE_CLASS = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "DeviceClass",
    "metadata": {"name": DRIVER},
    "spec": {"selectors": [{"cel": {"expression": f"device.driver == '{DRIVER}'"}}]},
}
DEVICES = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceSlice",
    "metadata": {"name": "fake-0-gpus"},
    "spec": {
        "driver": DRIVER,
        "nodeName": "fake-0",
        "pool": {"name": "fake-0", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0"}],
    },
}


def tier_cannot_run(why: str) -> NoReturn:
    """Skip with one plain line; in CI a tier that cannot run is an error."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def smallest(name: str = "studio", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """The smallest useful resource, with parts of its spec replaced (None: taken out)."""
    body: dict[str, Any] = {
        "model": {"persistentVolumeClaim": {"claimName": "z-image-turbo"}},
        "ingress": published("img.example.org"),
        "auth": {"basic": {"secretName": "studio-users"}},
        **spec,
    }
    return {
        "apiVersion": "zimage.dev/v1alpha1",
        "kind": "ZImageService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {key: value for key, value in body.items() if value is not None},
    }


def published(host: str) -> dict[str, Any]:
    """A `spec.ingress` with a host of its own: of two services of one host only the older has a route."""
    return {"host": host, "className": CLASS["metadata"]["name"], "tls": {"secretName": "img-tls"}}


def install(cluster: ControlPlane, *crds: Path) -> None:
    """Install our CRD, those of others, the class, and the operator's rights."""
    for folder in (ROOT / "crds", *crds):
        cluster.kubectl("apply", "--server-side", "-f", folder)
    documents = list(yaml.safe_load_all((ROOT / "operator" / "install.yaml").read_text()))
    # Here the operator runs beside the cluster: its Deployment would be a second one.
    cluster.apply(CLASS, *(item for item in documents if item["kind"] != "Deployment"))


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

    def start(self, **settings: str) -> None:
        """Start it, with more settings than the usual ones where they are given."""
        self.port = free_port()
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "ZIMAGE_OPERATOR_PORT": str(self.port),
            "ZIMAGE_OPERATOR_LOG_FORMAT": "json",
            "ZIMAGE_OPERATOR_NAMESPACE": self.namespace,
            **self.environment,
            **settings,
        }
        command = [sys.executable, "-m", "zimage_operator", "run"]
        environment["PYTHONPATH"] = str(ROOT / "operator")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)

    def stop(self) -> int:
        assert self.process
        self.process.terminate()
        return self.process.wait(30)

    def leads(self) -> int:
        """How often a process of it has taken the lead so far; before that SIGTERM finds nobody to answer it."""
        return self.log.read_text().count("leading as") if self.log.exists() else 0

    def stop_in_order(self) -> None:
        """Stop it once it leads, and see that it ends well."""
        eventually(self.leads, "it leads")
        assert self.stop() == 0

    def start_and_lead(self, **settings: str) -> None:
        """Start it and wait until it acts."""
        before = self.leads()
        self.start(**settings)
        eventually(lambda: self.leads() > before, "it leads again")

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


def mutation(name: str, namespace: str, resource: tuple[str, str, str], expression: str) -> list[dict[str, Any]]:
    """A MutatingAdmissionPolicy for one namespace, and its binding."""
    group, version, plural = resource
    rule = {"apiGroups": [group], "apiVersions": [version], "resources": [plural], "operations": ["CREATE", "UPDATE"]}
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    place = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    spec = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {"resourceRules": [rule], "namespaceSelector": place},
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
    }
    return [
        {**head, "kind": "MutatingAdmissionPolicy", "spec": spec},
        {**head, "kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": name}},
    ]


def in_force(cluster: ControlPlane, namespace: str, sign: str) -> None:
    """Wait until a mutation of pods acts, which is some moments after it was written: `sign` is then in a pod."""
    trial = {"metadata": {"name": "trial", "namespace": namespace, "annotations": {"a": "b"}}}
    pod = {"apiVersion": "v1", "kind": "Pod", **trial, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    command = ("create", "--dry-run=server", "-o", "json", "-f", "-")
    eventually(lambda: sign in cluster.kubectl(*command, input=json.dumps(pod)), "the policy is in force")
