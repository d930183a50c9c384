"""A model from a hub on the real node: real Job pods, the real fetch, real HTTP, Calico, the real pipeline.

The hub is tests/hub.py in a pod: it speaks the Hub's protocol, well and badly, on four ports.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import hub
from cluster.node import Node
from demo import scene
from reasons import HUB
from support import ROOT

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

PLACE = scene.NAMESPACE
# What is wrong, its part of the spec, the reason that Ready gives, and what the message says to do.
TROUBLE: dict[str, tuple[dict[str, Any], str, str]] = {
    "stranger": ({"endpoint": "private"}, "AuthRequired", "model.huggingFace.tokenSecretName"),
    "wrong": ({"endpoint": "wrong"}, "ChecksumMismatch", "other bytes than the hub promised"),
    "renamed": ({"endpoint": "good", "repo": "tiny/nobody"}, "RepoNotFound", "check"),
    "rewritten": ({"endpoint": "good", "revision": "f" * 40}, "RevisionNotFound", "write one of its commits"),
    "full": ({"endpoint": "good"}, "NoSpace", "raise model.storage.size"),
    "tokenless": (
        {"endpoint": "https://hub.example.org", "tokenSecretName": "nobodys"},
        "SecretMissing",
        "create secret generic nobodys --from-literal=token=",
    ),
}


@pytest.fixture(scope="module")
def stage(node: Node) -> Iterator[scene.Scene]:
    """The operator and a hub, with a volume for everybody who asks for one."""
    stage = scene.prepare(node)
    node.apply(*hub_documents())
    for name in ("fetched", "crawling", *TROUBLE):
        volume(node, name)
    node.kubectl("-n", PLACE, "wait", "--for=condition=Ready", "pod/hub", "--timeout=120s")
    # All at once, side by side: what is waited for in one test goes on during the others.
    node.apply(service("crawling", "slow", replicas=0), service("fetched", "good"))
    node.apply(*(service(name, replicas=0, **source) for name, (source, _, _) in TROUBLE.items()))
    yield stage
    node.kubectl("-n", PLACE, "delete", "zis", "fetched", "crawling", *TROUBLE)
    node.kubectl("-n", PLACE, "delete", "pod/hub", "service/hub", "configmap/hub")


def hub_documents() -> list[dict[str, Any]]:
    """The hub's pod, over the folder that the demo's model lies in, and its Service."""
    head = {"name": "hub", "namespace": PLACE, "labels": {"app": "hub"}}
    mounts = [{"name": "hub", "mountPath": "/hub"}, {"name": "model", "mountPath": "/model", "readOnly": True}]
    ports = [{"name": name, "port": port} for name, port in hub.PORTS.items()]
    container = {
        "command": ["python", "/hub/hub.py", "/model/tiny"],
        "volumeMounts": mounts,
        "readinessProbe": {"tcpSocket": {"port": hub.PORTS["wrong"]}, "periodSeconds": 1},
    }
    volumes = [
        {"name": "hub", "configMap": {"name": "hub"}},
        {"name": "model", "persistentVolumeClaim": {"claimName": "z-image-turbo", "readOnly": True}},
    ]
    pod = scene.restricted("localhost/zimage-worker:test", [], container=container, volumes=volumes)
    code = (ROOT / "tests" / "hub.py").read_text()
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": head, "data": {"hub.py": code}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": {**pod, "terminationGracePeriodSeconds": 0}},
        {"apiVersion": "v1", "kind": "Service", "metadata": head, "spec": {"selector": {"app": "hub"}, "ports": ports}},
    ]


def volume(node: Node, name: str) -> None:
    """A volume for the claim NAME-model; that of `full` is as good as full: nothing fits into it."""
    folder = node.directory / f"{name}-model"
    folder.mkdir(exist_ok=True)
    if name == "full":
        node.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", folder])
    folder.chmod(0o777)
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "capacity": {"storage": "1Gi"},
        "hostPath": {"path": str(folder)},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": PLACE, "name": f"{name}-model"},
    }
    head = {"name": f"{name}-model"}
    node.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": head, "spec": spec})


def service(name: str, endpoint: str, revision: str = hub.REVISION, replicas: int = 1, **source: Any) -> dict[str, Any]:
    """A service on the processor whose model comes from one of the hubs."""
    port = hub.PORTS.get(endpoint)
    address = f"http://hub.{PLACE}.svc:{port}" if port else endpoint
    model = {"huggingFace": {"repo": hub.REPO, "revision": revision, "endpoint": address, **source}}
    body = scene.resource()
    kept = {key: value for key, value in body["spec"].items() if key != "ingress"}
    spec = {**kept, "gpu": {"count": 0}, "replicas": replicas, "model": {**model, "storage": {"size": "1Gi"}}}
    return {**body, "metadata": {"name": name, "namespace": PLACE}, "spec": spec}


def condition(stage: scene.Scene, name: str, kind: str) -> dict[str, str]:
    conditions = stage.service(name)["status"].get("conditions", [])
    return next((item for item in conditions if item["type"] == kind), {})


def serves(stage: scene.Scene, revision: str) -> bool:
    """Whether the service is ready with this very model, as its worker says itself."""
    body = stage.service("fetched")
    told = body["status"].get("model", {})
    current = body["status"].get("observedGeneration") == body["metadata"]["generation"]
    ready = condition(stage, "fetched", "Ready").get("status") == "True"
    return bool(current and ready and told.get("revision") == revision and told.get("digest"))


def download(stage: scene.Scene) -> dict[str, Any]:
    """The pod whose download never ends; empty while it does not run."""
    selector = "app.kubernetes.io/component=download,app.kubernetes.io/instance=crawling"
    items = stage.node.get("pods", "-n", PLACE, "-l", selector)["items"]
    running = [item for item in items if item["status"].get("podIP") and item["status"]["phase"] == "Running"]
    return running[0] if running else {}


def test_a_download_lets_nobody_in_but_the_operator(stage: scene.Scene) -> None:
    pod = scene.wait(lambda: download(stage), "the download runs")
    # The operator's question is answered: the figure in the status is the download's own.
    told = re.compile(r"tiny/Z-Image at 0123456789ab: \d+ % of")
    scene.wait(lambda: told.search(condition(stage, "crawling", "ModelReady").get("message", "")), "a percentage")
    address = f"{pod['status']['podIP']}/9090"
    assert not any(stage.from_pod(place, address, seconds=2) for place in ("dmz", "elsewhere", "zimage-system"))
    # Else the silence would be that of a pod that is gone.
    assert download(stage)["metadata"]["uid"] == pod["metadata"]["uid"]


def test_a_model_is_fetched_served_and_followed_by_another(stage: scene.Scene) -> None:
    node = stage.node
    scene.wait(lambda: serves(stage, hub.REVISION), "the first revision is served")
    first = stage.service("fetched")["status"]["model"]["digest"]
    node.apply(service("fetched", "good", hub.OTHER))
    scene.wait(lambda: serves(stage, hub.OTHER), "the second revision is served")
    assert stage.service("fetched")["status"]["model"]["digest"] != first
    folders = {path.name for path in (node.directory / "fetched-model").iterdir() if not path.name.startswith(".")}
    assert len(folders) == 2, "the former one is kept until room is needed"


@pytest.mark.parametrize("name", TROUBLE)
def test_a_hub_or_a_volume_that_fails_is_named_with_what_to_do(stage: scene.Scene, name: str) -> None:
    _, wanted, advice = TROUBLE[name]
    scene.wait(lambda: condition(stage, name, "Ready").get("reason") == wanted, f"{name}: {wanted}")
    assert advice in condition(stage, name, "ModelReady")["message"]


def test_each_reason_of_the_hub_was_caused_here(stage: scene.Scene) -> None:
    """The last test of this file, of all that the ones before it have looked at."""
    missing = HUB - scene.SEEN
    assert not missing
