"""The operator with Roles only (operator/install-namespaced.yaml): it works, uses every right, sees nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.control_plane import ControlPlane
from laws import conditions, exists, wait_for
from support import DRIVER, ROOT, Operator, claim, eventually, published, smallest
from taken import give_back, lose_labels, take

pytestmark = pytest.mark.control_plane

PLACES = ("roles-a", "roles-b")
HOME = "zimage-roles"
# They let everything through that the tests below do, but for the one about them.
BOUNDS = {
    "ALLOWED_HOSTS": ".example.org",
    "ALLOWED_CLIENT_NAMESPACES": "dmz",
    "ALLOWED_MODELS": "persistentVolumeClaim:*,huggingFace:https://huggingface.co/*",
    "ALLOWED_PRIORITY_CLASSES": "gpu-serving",
    "ALLOWED_IMAGE_PREFIXES": "registry.example.org",
}
BEYOND: dict[str, Any] = {
    "ingress": {"host": "img.example.com", "className": "traefik", "tls": {"secretName": "img-tls"}},
    "network": {"allowedNamespaces": ["dmz", "default"]},
    "model": {"image": {"reference": "evil.example.org/z@sha256:" + "a" * 64}},
    "scheduling": {"priorityClassName": "mine"},
    "image": {"repository": "evil.example.org/worker", "tag": "1"},
}


def documents() -> list[dict[str, object]]:
    """The manifest as it is, but for names of its own and a second namespace, as its comment says to do."""
    text = (ROOT / "operator" / "install-namespaced.yaml").read_text().replace("zimage-system", HOME)
    items = list(yaml.safe_load_all(text.replace("team-a", PLACES[0])))
    second = [item for item in items if item["metadata"].get("namespace") == PLACES[0]]
    return [*items, *({**item, "metadata": {**item["metadata"], "namespace": PLACES[1]}} for item in second)]


@pytest.fixture(scope="module")
def roles(
    installed: ControlPlane, operator: Operator, pod_monitors: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """This operator in place of the cluster-wide one, which would do the same work."""
    spaces = ({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in PLACES)
    installed.apply(*spaces, *(item for item in documents() if item["kind"] != "Deployment"))
    for place in PLACES:
        claim(installed, place)
    classes = "traefik=traefik.io/ingress-controller,f5=nginx.org/ingress-controller"
    settings = {"ZIMAGE_OPERATOR_WATCH_NAMESPACES": ",".join(PLACES), "ZIMAGE_OPERATOR_INGRESS_CLASSES": classes}
    settings |= {f"ZIMAGE_OPERATOR_{name}": text for name, text in BOUNDS.items()}
    process = Operator(installed, Path(tmp_path_factory.mktemp("roles")), HOME, **settings)
    operator.stop_in_order()
    process.start()
    yield process
    process.stop_in_order()
    installed.kubectl("delete", "namespace", *PLACES, HOME, "--wait=false")
    operator.start_and_lead()
    assert "Traceback" not in process.log.read_text()


def ready(cluster: ControlPlane, place: str) -> dict[str, str]:
    conditions = cluster.get("zis", "studio", "-n", place)["status"].get("conditions", [])
    return next((item for item in conditions if item["type"] == "Ready"), {})


@pytest.mark.parametrize("place", PLACES)
def test_a_service_is_published_and_taken_back(roles: Operator, place: str) -> None:
    cluster, processor = roles.cluster, {"gpu": {"count": 0}}
    generated = {"auth": {"basic": {"generate": True}}, "autoscaling": {"maxReplicas": 2}}
    cluster.apply(smallest(namespace=place, **generated, **processor))
    eventually(lambda: ready(cluster, place).get("status") == "True", f"ready in {place}")
    assert cluster.get("ing", "studio", "-n", place)["spec"]["ingressClassName"] == "traefik"
    # A hand edit comes back: the watches work.
    cluster.kubectl("-n", place, "delete", "netpol", "studio")
    eventually(lambda: cluster.kubectl("-n", place, "get", "netpol", "-o", "name").strip(), "the policy is back")
    # Another edge, of which the class was told too, with a certificate that is yet to be issued.
    f5 = {"host": "img.example.org", "className": "f5", "tls": {"issuerRef": {"name": "ca"}}}
    cluster.apply(smallest(namespace=place, ingress=f5, **generated, **processor))
    made = "policies.k8s.nginx.org,certificates.cert-manager.io"
    eventually(lambda: len(cluster.kubectl("-n", place, "get", made, "-o", "name").split()) == 2, "both are made")
    lose_labels(cluster, place, made, 2)
    # Known from the start of this operator, and so made unasked.
    wait_for(cluster, place, "Applied", "MonitoringReady")
    lose_labels(cluster, place, "podmonitors", 1)
    cluster.apply(smallest(namespace=place, ingress=f5, monitoring={"podMonitor": False}, **generated, **processor))
    eventually(lambda: not exists(cluster, place, "podmonitors"), "the PodMonitor is gone")
    # Without a worker nobody needs the devices, but the claim for them stands.
    cluster.apply(smallest(namespace=place, suspend=True, gpu={"deviceClassName": DRIVER}))
    wait_for(cluster, place, "Suspended")
    assert len(cluster.get("resourceclaimtemplates", "-n", place)["items"]) == 1
    # A model that is to be fetched: a claim and a Job.
    source = {"repo": "Tongyi-MAI/Z-Image-Turbo", "revision": "1" * 40}
    cluster.apply(smallest(namespace=place, model={"huggingFace": source}, ingress=None, **processor))
    eventually(lambda: cluster.kubectl("-n", place, "get", "jobs", "-o", "name"), "the Job is made")
    lose_labels(cluster, place, "job,pvc", 2)
    cluster.apply(smallest(namespace=place, ingress=None, **processor))
    gone = f"ing,middleware,tlsoption,hpa,resourceclaimtemplate,job,{made}"
    eventually(lambda: not cluster.kubectl("-n", place, "get", gone, "-o", "name"), "what is not asked for is gone")
    eventually(lambda: "credentials" not in cluster.kubectl("-n", place, "get", "cm", "-o", "name"), "no credentials")


def test_another_namespace_is_left_alone(roles: Operator, namespace: str) -> None:
    cluster = roles.cluster
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}))
    cluster.kubectl("-n", PLACES[0], "annotate", "zis", "studio", "touched=yes", "--overwrite")
    eventually(lambda: ready(cluster, PLACES[0]).get("status") == "True", "the operator is at work")
    assert cluster.get("zis", "studio", "-n", namespace)["status"] == {"observedGeneration": -1}
    cluster.kubectl("-n", namespace, "delete", "zis", "studio")


def test_what_is_beyond_the_bounds_is_refused_with_what_to_write_and_what_stands_stays(roles: Operator) -> None:
    cluster, place = roles.cluster, PLACES[0]
    cluster.apply(smallest(namespace=place, ingress=None, gpu={"count": 0}))
    wait_for(cluster, place, "Ready")
    before = cluster.get("deploy", "studio", "-n", place)["spec"]
    cluster.apply(smallest(namespace=place, gpu={"count": 0}, **BEYOND))
    wait_for(cluster, place, "NotAllowed")
    found = conditions(cluster, place)
    assert found["Stalled"]["reason"] == "NotAllowed"
    lines = found["Ready"]["message"].splitlines()
    assert len(lines) == len(BEYOND)
    assert all("this cluster's operator" in line for line in lines)
    assert cluster.get("deploy", "studio", "-n", place)["spec"] == before
    assert not exists(cluster, place, "ing")
    cluster.apply(smallest(namespace=place, ingress=None, gpu={"count": 0}))
    wait_for(cluster, place, "Ready")


def test_a_class_that_nobody_told_is_named(roles: Operator) -> None:
    """What is lost without a ClusterRole: the cluster's IngressClasses."""
    cluster, place = roles.cluster, PLACES[1]
    ingress = {"host": "img.example.org", "className": "untold", "tls": {"secretName": "img-tls"}}
    cluster.apply(smallest(namespace=place, gpu={"count": 0}, ingress=ingress))
    eventually(lambda: ready(cluster, place).get("reason") == "ClassNotFound", "the class is missed")
    assert "ZIMAGE_OPERATOR_INGRESS_CLASSES" in ready(cluster, place)["message"]


def test_what_no_watch_shows_is_found_by_name(roles: Operator) -> None:
    cluster, place = roles.cluster, PLACES[0]
    cluster.kubectl("-n", place, "delete", "zis", "studio")
    # The garbage collector is on its way; until it was here the names are still ours.
    left = ("-n", place, "get", "netpol,svc,ing", "-o", "name")
    eventually(lambda: "/studio" not in cluster.kubectl(*left), "the names are free", 120)
    take(cluster, place, "studio")
    # A host of its own: the other place's service is older by now.
    host = {"ingress": published("taken.example.org")}
    cluster.apply(smallest(namespace=place, gpu={"count": 0}, autoscaling={"maxReplicas": 2}, **host))
    give_back(cluster, place, "studio")
    lose_labels(cluster, place, "sa,deploy,pdb,hpa,tlsoption,middleware", 8)
    cluster.apply(smallest(namespace=place, suspend=True, gpu={"deviceClassName": DRIVER}))
    wait_for(cluster, place, "Suspended")
    lose_labels(cluster, place, "resourceclaimtemplate", 1)


def test_every_right_of_the_roles_was_used_and_none_is_missing(roles: Operator) -> None:
    """Read off the audit log of the tests before it."""
    requests = roles.requests()
    decision = "authorization.k8s.io/decision"
    assert [entry["requestURI"] for entry in requests if entry["annotations"].get(decision) == "forbid"] == []
    targets = [(entry["objectRef"], entry) for entry in requests if "objectRef" in entry]
    assert {target.get("namespace") for target, _ in targets} == {*PLACES, HOME}
    used = set()
    for target, entry in targets:
        resource = "/".join(filter(None, (target["resource"], target.get("subresource"))))
        used.add((target.get("apiGroup", ""), resource, entry["verb"]))
        # A server-side apply that creates is asked for `create` as well.
        if entry["verb"] == "patch" and entry["responseStatus"]["code"] == 201:
            used.add((target.get("apiGroup", ""), resource, "create"))
    granted = {
        (group, resource, verb)
        for item in documents()
        if item["kind"] in ("Role", "ClusterRole")
        for rule in item["rules"]  # type: ignore[attr-defined]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert not [item for item in documents() if item["kind"] in ("ClusterRole", "ClusterRoleBinding")]
    assert granted - used == set()


def test_without_the_right_to_create_secrets_the_status_says_so_and_no_worker_starts(roles: Operator) -> None:
    """After the count of rights: from here on one is missing, on purpose."""
    cluster, place = roles.cluster, PLACES[1]
    role = next(item for item in documents() if item["kind"] == "Role" and item["metadata"]["namespace"] == place)  # type: ignore[index]
    kept = [rule for rule in role["rules"] if rule["resources"] != ["secrets"]]  # type: ignore[attr-defined]
    cluster.apply({**role, "rules": kept})
    # The authorizer hears of it a moment later.
    ask = [cluster.facts["kubectl"], "auth", "can-i", "create", "secrets", "-n", place]
    ask += [f"--as=system:serviceaccount:{HOME}:zimage-operator"]
    eventually(lambda: cluster.run(ask, check=False).stdout.strip() == "no", "the right has gone")
    cluster.apply(smallest("later", place, gpu={"count": 0}, ingress=None, auth={"basic": {"generate": True}}))

    def told() -> str:
        conditions = cluster.get("zis", "later", "-n", place)["status"].get("conditions", [])
        return next((item["message"] for item in conditions if item["type"] == "AuthConfigured"), "")

    eventually(lambda: 'cannot create resource "secrets"' in told(), "the missing right is named")
    assert not cluster.kubectl("-n", place, "get", "deploy", "later", "--ignore-not-found", "-o", "name")
    assert cluster.kubectl("-n", place, "get", "netpol", "later", "-o", "name")
    cluster.apply(role)
    eventually(lambda: cluster.kubectl("-n", place, "get", "deploy", "later", "--ignore-not-found", "-o", "name"))
