"""What the cluster refuses, caused for real: quota, limit range, nowhere to run; said, and mended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.control_plane import CommandFailed, ControlPlane
from laws import conditions, exists, wait_for
from support import ROOT, Operator, claim, eventually, smallest

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


def test_a_volume_that_is_not_there_yet(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    head = {"name": "later", "namespace": namespace}
    # Nobody makes volumes here: bound to one by name, it waits for that one.
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}
    wanted = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": head}
    cluster.apply({**wanted, "spec": {**spec, "volumeName": f"{namespace}-later"}})
    model = {"persistentVolumeClaim": {"claimName": "later"}}
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, model=model))
    wait_for(cluster, namespace, "VolumePending")
    assert "the model's volume is not bound yet" in conditions(cluster, namespace)["Ready"]["message"]
    claim(cluster, namespace, "later")
    wait_for(cluster, namespace, "Ready")


def test_an_edge_that_cannot_keep_strangers_out(operator: Operator, namespace: str) -> None:
    cluster, name = operator.cluster, f"other-{namespace}"
    head = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name}}
    cluster.apply({**head, "spec": {"controller": "example.org/router"}})
    ingress = {"host": "img.example.org", "className": name, "tls": {"secretName": "img-tls"}}
    ingress["allowedSourceRanges"] = ["192.0.2.0/24"]
    cluster.apply(smallest(namespace=namespace, replicas=0, ingress=ingress))
    wait_for(cluster, namespace, "DialectUnsupported", "IngressReady")
    assert "neither this edge (example.org/router) nor" in conditions(cluster, namespace)["IngressReady"]["message"]
    assert not exists(cluster, namespace, "ing")
    cluster.kubectl("delete", "ingressclass", name)


MODEL_RULES = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/model/x-kubernetes-validations"


@pytest.fixture
def loose(installed: ControlPlane) -> Iterator[ControlPlane]:
    """The API server takes a model without a source, as one of an older version of ours might have."""
    patch = json.dumps([{"op": "remove", "path": MODEL_RULES}])
    installed.kubectl("patch", "crd", "zimageservices.zimage.dev", "--type=json", "-p", patch)
    eventually(lambda: takes(installed, smallest("trial", model={})), "the rule is gone")
    yield installed
    installed.kubectl("apply", "--server-side", "--force-conflicts", "-f", ROOT / "crds")
    eventually(lambda: not takes(installed, smallest("trial", model={})), "the rule is back")


def takes(cluster: ControlPlane, body: dict[str, Any]) -> bool:
    try:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(body))
    except CommandFailed:
        return False
    return True


def test_a_spec_that_got_past_admission_stalls_and_what_stands_stays(
    operator: Operator, namespace: str, loose: ControlPlane
) -> None:
    good = smallest(namespace=namespace, ingress=None, replicas=0)
    loose.apply(good)
    wait_for(loose, namespace, "Ready")
    before = loose.get("deploy", "studio", "-n", namespace)["spec"]
    patch = json.dumps([{"op": "replace", "path": "/spec/model", "value": {}}])
    loose.kubectl("-n", namespace, "patch", "zis", "studio", "--type=json", "-p", patch)
    wait_for(loose, namespace, "InvalidSpec")
    found = conditions(loose, namespace)
    assert found["Stalled"]["reason"] == "InvalidSpec"
    assert found["Ready"]["message"].startswith("spec.model: write exactly one source of the model")
    assert loose.get("deploy", "studio", "-n", namespace)["spec"] == before
    assert exists(loose, namespace, "netpol")
    # Nobody else is held up.
    loose.apply(smallest("another", namespace, ingress=None, replicas=0))
    wait_for(loose, namespace, "Ready", name="another")
    loose.apply(good)
    wait_for(loose, namespace, "Ready")
