"""Everything that others can do to a child, and what becomes of it, for every child of one service.

| what is done | what becomes of it |
|---|---|
| any field of ours changed, by an update or by a forced apply | put back, and who did it is named |
| a field of ours applied without force | the API server refuses it: we are its manager |
| the child deleted, or its labels taken away | it is back |
| its ownerReference taken away, or another object in its place | NotOwned, left alone; back when that goes |
| fields of others: labels, annotations, what an admission policy injects | left in peace: no write at all |
| one child rewritten in a loop | at most five writes a second on it, and nobody else waits |
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.api import Api, ApiError, Object
from cluster.control_plane import ControlPlane
from laws import conditions, exists, wait_for
from support import DEVICE_CLASS, DEVICES, DRIVER, Operator, claim, eventually, mutation, smallest
from zimage_operator.__main__ import CONTROLLER, rendered
from zimage_operator.kinds import BY_NAME
from zimage_operator.observed import at, differences

pytestmark = pytest.mark.control_plane

PLACE = "t-drift"
CHILDREN = (
    ("NetworkPolicy", "studio"),
    ("ServiceAccount", "studio"),
    ("ConfigMap", "studio"),
    ("ResourceClaimTemplate", "studio-gpu"),
    ("Deployment", "studio"),
    ("Service", "studio"),
    ("PodDisruptionBudget", "studio"),
    ("HorizontalPodAutoscaler", "studio"),
    ("TLSOption", "studio-tls"),
    ("Middleware", "studio-allow"),
    ("Middleware", "studio-rate-limit"),
    ("Middleware", "studio-auth"),
    ("Middleware", "studio-headers"),
    ("PodMonitor", "studio"),
    ("Ingress", "studio"),
)
IDS = [f"{kind}-{name}" for kind, name in CHILDREN]
EVERYTHING = {
    "gpu": {"deviceClassName": DRIVER},
    "autoscaling": {"maxReplicas": 2},
    "monitoring": {"podMonitor": True},
    "ingress": {
        "host": "drift.example.org",
        "className": "traefik",
        "tls": {"secretName": "img-tls"},
        "allowedSourceRanges": ["10.0.0.0/8"],
    },
}


class Stage:
    """One service with a child of every kind, and a fast way to its objects."""

    def __init__(self, operator: Operator) -> None:
        self.operator, self.cluster = operator, operator.cluster
        self.api = Api(self.cluster.kubeconfig)
        body = self.cluster.get("zis", "studio", "-n", PLACE)
        self.uid = body["metadata"]["uid"]
        self.wanted = {(item["kind"], item["metadata"]["name"]): item for item in rendered(body, CONTROLLER)}

    def want(self, kind: str, name: str) -> Object:
        """The child as it has to be; a claim template's name ends in a digest."""
        return next(item for (k, n), item in self.wanted.items() if k == kind and (n == name or n[:-9] == name))

    def path(self, kind: str, name: str) -> str:
        return BY_NAME[kind].path(PLACE, self.want(kind, name)["metadata"]["name"])

    def live(self, kind: str, name: str) -> Object:
        try:
            return self.api.request("GET", self.path(kind, name))
        except ApiError as error:
            if error.status != 404:
                raise
            return {"metadata": {}}

    def patch(self, kind: str, name: str, body: Any, form: str = "merge-patch+json", query: str = "") -> Object:
        path = f"{self.path(kind, name)}?fieldManager=mallory{query}"
        return self.api.request("PATCH", path, body, f"application/{form}")

    def stands(self, kind: str, name: str) -> bool:
        """Whether the child is ours, and as it has to be."""
        live = self.live(kind, name)
        owners = [owner["uid"] for owner in live["metadata"].get("ownerReferences", [])]
        return owners == [self.uid] and not list(differences(self.want(kind, name), live))

    def restored(self, kind: str, name: str, why: str) -> None:
        try:
            eventually(lambda: self.stands(kind, name), f"{kind} {name} after {why}")
        except AssertionError as error:
            left = list(differences(self.want(kind, name), self.live(kind, name)))
            said = [item["message"] for item in conditions(self.cluster, PLACE).values()]
            raise AssertionError(f"{error}\n{left}\n{said}") from error

    def writes(self) -> Counter[tuple[str, str]]:
        """How often the operator wrote each child."""
        targets = [entry["objectRef"] for entry in self.operator.writes()]
        counts = Counter((one["resource"], one["name"]) for one in targets if one.get("namespace") == PLACE)
        return Counter({child: counts[self.target(*child)] for child in CHILDREN})

    def target(self, kind: str, name: str) -> tuple[str, str]:
        """The child as the audit log names it."""
        return BY_NAME[kind].plural, self.want(kind, name)["metadata"]["name"]


@pytest.fixture(scope="module")
def stage(operator: Operator, pod_monitors: None) -> Iterator[Stage]:
    cluster = operator.cluster
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE}}, DEVICE_CLASS, DEVICES)
    claim(cluster, PLACE)
    cluster.apply(smallest(namespace=PLACE, **EVERYTHING))
    wait_for(cluster, PLACE, "Ready")
    wait_for(cluster, PLACE, "Applied", "MonitoringReady")
    yield Stage(operator)
    # The one device goes back before anybody else asks for it.
    cluster.kubectl("-n", PLACE, "delete", "zis", "studio")
    cluster.kubectl("delete", "namespace", PLACE, "--wait=false")
    eventually(lambda: not cluster.get("pods", "-n", PLACE)["items"], "no pod is left")


@pytest.fixture
def settled(stage: Stage) -> Stage:
    """Nothing left over from the test before."""
    wait_for(stage.cluster, PLACE, "Ready")
    wait_for(stage.cluster, PLACE, "Applied", "MonitoringReady")
    return stage


def test_every_child_is_in_the_table(stage: Stage) -> None:
    """A kind that is added to the operator is added here."""
    assert len(stage.wanted) == len(CHILDREN)
    assert all(stage.stands(*child) for child in CHILDREN)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field without fields of its own, by its place in the object (lists by index)."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, str(index)))
    else:
        yield path, value


def others(value: Any) -> list[Any]:
    """Values of the same type, in the hope that the API server takes one of them."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, 8080]
    words = [f"{value}x", f"x{value}", "UDP", "Always", "Never", "5Gi", "7", "Egress", "Unconfined", "10.9.0.0/16"]
    more = ["DoNotSchedule", "ExactCount", "All", "RollingUpdate", "NodePort", "IfHealthyBudget", "Exact", "http"]
    return [word for word in [*words, *more] if word != value] if isinstance(value, str) else []


def fixed(path: tuple[str, ...]) -> bool:
    """What says which object it is, and the owner, which has a test of its own."""
    return path[0] in ("apiVersion", "kind") or path[:2] in (
        ("metadata", "name"),
        ("metadata", "namespace"),
        ("metadata", "ownerReferences"),
    )


def replace(path: tuple[str, ...], value: Any) -> Object:
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
    return {"op": "replace", "path": pointer, "value": value}


def accepted(stage: Stage, child: tuple[str, str], patch: list[Object]) -> bool:
    """Whether the API server would take these changes."""
    try:
        stage.patch(*child, patch, "json-patch+json", "&dryRun=All")
    except ApiError:
        return False
    return True


@pytest.mark.parametrize("child", CHILDREN, ids=IDS)
def test_every_field_is_put_back_and_who_changed_it_is_named(settled: Stage, child: tuple[str, str]) -> None:
    """All at once, as far as the API server takes the changes together; each is tried alone first."""
    stage, wanted = settled, settled.want(*child)
    if child[0] == "Deployment":
        # Or a hundred changes would start a new pod.
        stage.patch(*child, {"spec": {"paused": True}})
    ours = [(path, value) for path, value in leaves(wanted) if not fixed(path)]
    changes: list[Object] = []
    for path, value in ours:
        found = next((new for new in others(value) if accepted(stage, child, [replace(path, new)])), None)
        together = [*changes, replace(path, found)]
        if found is not None and accepted(stage, child, together):
            changes = together
    # A claim template's spec is immutable.
    assert len(changes) >= (1 if child[0] == "ResourceClaimTemplate" else len(ours) // 2)
    stage.patch(*child, changes, "json-patch+json")
    stage.restored(*child, f"{len(changes)} of {len(ours)} fields were changed")
    if child[0] == "Deployment":
        stage.patch(*child, {"spec": {"paused": None}})
    note = f"{child[0]} {wanted['metadata']['name']}: "
    eventually(lambda: any(note in line and "by mallory" in line for line in notes(stage)), "an event names mallory")


def notes(stage: Stage) -> list[str]:
    events = stage.api.request("GET", f"/apis/events.k8s.io/v1/namespaces/{PLACE}/events")["items"]
    return [item.get("note", "") for item in events if item["reason"] == "DriftRepaired"]


@pytest.mark.parametrize("child", CHILDREN, ids=IDS)
def test_another_manager_deletion_and_lost_labels(settled: Stage, child: tuple[str, str]) -> None:
    stage, wanted = settled, settled.want(*child)
    head = {key: wanted[key] for key in ("apiVersion", "kind")}
    label = {"app.kubernetes.io/part-of": "mallory"}
    foreign = {**head, "metadata": {"name": wanted["metadata"]["name"], "namespace": PLACE, "labels": label}}
    with pytest.raises(ApiError, match="conflict with"):
        stage.patch(*child, foreign, "apply-patch+yaml")
    assert stage.stands(*child)
    stage.patch(*child, foreign, "apply-patch+yaml", "&force=true")
    stage.restored(*child, "a forced apply")
    stage.patch(*child, {"metadata": {"labels": None}})
    stage.restored(*child, "its labels were lost")
    uid = stage.live(*child)["metadata"]["uid"]
    stage.api.request("DELETE", stage.path(*child), {"propagationPolicy": "Background"})
    stage.restored(*child, "its deletion")
    assert stage.live(*child)["metadata"]["uid"] != uid


@pytest.mark.parametrize("child", CHILDREN, ids=IDS)
def test_what_is_not_ours_is_reported_and_left_alone(settled: Stage, child: tuple[str, str]) -> None:
    """The owner taken away; then another object in its place, which bears all our labels."""
    stage, wanted = settled, settled.want(*child)
    stage.patch(*child, {"metadata": {"ownerReferences": None, "annotations": {"mine": "yes"}}})
    refused(stage)
    foreign = stage.live(*child)
    assert foreign["metadata"]["annotations"]["mine"] == "yes"
    # The operator stands still while one is put in the place of the other.
    process = stage.operator.process
    assert process
    process.send_signal(signal.SIGSTOP)
    try:
        stage.api.request("DELETE", stage.path(*child))
        head = {**wanted["metadata"], "ownerReferences": [], "annotations": {"mine": "again"}}
        stage.api.request("POST", stage.path(*child).rpartition("/")[0], {**wanted, "metadata": head})
    finally:
        process.send_signal(signal.SIGCONT)
    refused(stage)
    assert stage.live(*child)["metadata"]["annotations"]["mine"] == "again"
    stage.api.request("DELETE", stage.path(*child))
    stage.restored(*child, "what stood in its place went")


def refused(stage: Stage) -> None:
    eventually(
        lambda: "NotOwned" in {item["reason"] for item in conditions(stage.cluster, PLACE).values()}, "NotOwned is said"
    )


def test_labels_and_annotations_of_others_stay_and_cost_no_write(settled: Stage) -> None:
    """A mesh's, cert-manager's, Argo CD's, the cloud's."""
    stage = settled
    before = stage.writes()
    extra = {
        "labels": {"argocd.argoproj.io/instance": "images", "istio.io/rev": "stable"},
        "annotations": {"cert-manager.io/issue-temporary-certificate": "true", "cloud.example.org/neg": "{}"},
    }
    for child in CHILDREN:
        stage.patch(*child, {"metadata": extra})
    # Something of ours changes afterwards: when that is put back, the events before it were seen.
    stage.patch("ConfigMap", "studio", {"data": {"ZIMAGE_PORT": "1"}})
    stage.restored("ConfigMap", "studio", "a change of its own")
    time.sleep(1)
    after = stage.writes()
    assert {child for child in CHILDREN if after[child] != before[child]} == {("ConfigMap", "studio")}
    for child in CHILDREN:
        head = stage.live(*child)["metadata"]
        assert extra["labels"].items() <= head["labels"].items()
        assert extra["annotations"].items() <= head["annotations"].items()


def test_a_competitor_in_a_loop_costs_little_and_holds_up_nobody(settled: Stage) -> None:
    stage, seconds = settled, 4.0
    neighbour = ("ServiceAccount", "studio")
    policy = ("NetworkPolicy", "studio")
    before, stop = stage.writes()[policy], threading.Event()
    count = 0

    def rewrite() -> None:
        nonlocal count
        api = Api(stage.cluster.kubeconfig)
        path = f"{stage.path(*policy)}?fieldManager=mallory"
        while not stop.wait(0.02):
            value = [replace(("spec", "policyTypes"), ["Ingress"])]
            api.request("PATCH", path, value, "application/json-patch+json")
            count += 1

    thread = threading.Thread(target=rewrite)
    began = time.monotonic()
    thread.start()
    try:
        stage.patch(*neighbour, {"automountServiceAccountToken": True})
        stage.restored(*neighbour, "a change during the fight")
        # However slow the machine is: long enough, and more than the five a second that we may answer with.
        eventually(lambda: (lasted := time.monotonic() - began) > seconds and count > 5 * lasted, "a competition")
    finally:
        stop.set()
        thread.join()
    lasted = time.monotonic() - began
    assert stage.writes()[policy] - before <= 5 * lasted
    stage.restored(*policy, "the fight")


# --- admission policies that change what we send --------------------------------------------


INJECT = """
object.spec.template.spec.containers.exists(c, c.name == 'mesh') ? [] : [
  JSONPatch{op: "add", path: "/spec/template/metadata/labels/mesh.example.org~1injected", value: "yes"},
  JSONPatch{op: "add", path: "/spec/template/spec/tolerations/-",
            value: Object.spec.template.spec.tolerations{key: "mesh.example.org/ready", operator: "Exists"}},
  JSONPatch{op: "add", path: "/spec/template/spec/containers/-",
            value: Object.spec.template.spec.containers{name: "mesh", image: "mesh:1"}}]
"""
WIDEN = """
[JSONPatch{op: "add", path: "/spec/ingress/0/from/-",
           value: Object.spec.ingress.from{namespaceSelector: Object.spec.ingress.from.namespaceSelector{}}}]
"""
ONE_TOLERATION = {"tolerations": [{"key": "gpu-only", "operator": "Exists"}]}


@pytest.fixture
def mutating(installed: ControlPlane, namespace: str) -> Iterator[Any]:
    """Put a mutating policy over this test's namespace; it is in force when this returns."""
    name = f"mutate-{namespace}"

    def add(resource: tuple[str, str, str], expression: str) -> None:
        installed.apply(*mutation(name, namespace, resource, expression))

    yield add
    for kind in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
        installed.kubectl("delete", kind, name, "--ignore-not-found")


def test_what_an_admission_policy_injects_is_left_in_peace(operator: Operator, namespace: str, mutating: Any) -> None:
    """A label, a toleration in a list of ours, a sidecar: one write when it is created, none when it reports."""
    cluster = operator.cluster
    probe = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "probe", "namespace": namespace}}
    mutating(("apps", "v1", "deployments"), INJECT)
    eventually(lambda: injects(cluster, probe), "the admission policy is in force")
    body = smallest(namespace=namespace, gpu={"count": 0}, scheduling=ONE_TOLERATION)
    # PodSecurity does not like the sidecar: no pod, and many reports of the Deployment's trouble.
    cluster.apply(body)
    wait_for(cluster, namespace, "AdmissionRefused")
    assert "violates PodSecurity" in conditions(cluster, namespace)["Ready"]["message"]
    time.sleep(2)
    live = cluster.get("deploy", "studio", "-n", namespace)["spec"]["template"]
    assert [item["name"] for item in live["spec"]["containers"]] == ["worker", "mesh"]
    assert [item["key"] for item in live["spec"]["tolerations"]] == ["gpu-only", "mesh.example.org/ready"]
    assert len(sent(operator, namespace, "deployments")) == 1
    # What is ours is still ours.
    patch = '[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "mallory:1"}]'
    cluster.kubectl("-n", namespace, "patch", "deploy", "studio", "--type=json", "-p", patch)
    eventually(lambda: "mallory" not in str(cluster.get("deploy", "studio", "-n", namespace)["spec"]), "put back")
    patch = '[{"op": "remove", "path": "/spec/template/spec/tolerations"}]'
    cluster.kubectl("-n", namespace, "patch", "deploy", "studio", "--type=json", "-p", patch)
    path = ("spec", "template", "spec", "tolerations", "0", "key")
    eventually(lambda: at(cluster.get("deploy", "studio", "-n", namespace), path) == "gpu-only", "put back")


def injects(cluster: ControlPlane, body: Object) -> bool:
    worker = {"containers": [{"name": "a", "image": "a:1"}], "tolerations": [{"key": "a", "operator": "Exists"}]}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": worker}
    spec = {"selector": {"matchLabels": {"app": "a"}}, "template": template}
    command = ("create", "--dry-run=server", "-o", "json", "-f", "-")
    return "mesh:1" in cluster.kubectl(*command, input=json.dumps({**body, "spec": spec}))


def sent(operator: Operator, namespace: str, plural: str) -> list[Object]:
    return [
        entry
        for entry in operator.writes()
        if entry["objectRef"]["resource"] == plural and entry["objectRef"].get("namespace") == namespace
    ]


def test_a_policy_that_is_widened_on_its_way_in_starts_no_worker(
    operator: Operator, namespace: str, mutating: Any
) -> None:
    cluster = operator.cluster
    mutating(("networking.k8s.io", "v1", "networkpolicies"), WIDEN)
    peers = {"from": [{"podSelector": {}}]}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "probe", "namespace": namespace},
        "spec": {"podSelector": {}, "ingress": [peers]},
    }
    command = ("create", "--dry-run=server", "-o", "json", "-f", "-")
    eventually(lambda: "namespaceSelector" in cluster.kubectl(*command, input=json.dumps(policy)), "it is in force")
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}))
    wait_for(cluster, namespace, "AlteredOnAdmission", "NetworkPolicyReady")
    assert "spec.ingress.0.from" in conditions(cluster, namespace)["Ready"]["message"]
    assert not exists(cluster, namespace, "deploy")
    cluster.kubectl("delete", "mutatingadmissionpolicybinding", f"mutate-{namespace}")
    wait_for(cluster, namespace, "Ready")
