"""The operator against the real API server: what it builds, repairs, reports and leaves alone."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from laws import conditions, exists, serve, wait_for
from support import ROOT, Operator, claim, eventually, smallest
from taken import give_back, lose_labels, take
from zimage_operator.names import labels

pytestmark = pytest.mark.control_plane

# The other repaired fields are atomic lists or leaves too; this one decides who may come in.
HOLE = [{"op": "add", "path": "/spec/ingress/0/from/-", "value": {"namespaceSelector": {}}}]


def test_one_apply_ends_in_a_published_service(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    serve(cluster, namespace)
    for kind in ("netpol", "sa", "cm", "deploy", "svc", "ing"):
        assert exists(cluster, namespace, kind)
    for kind, name in (("middleware", "studio-auth"), ("middleware", "studio-rate-limit"), ("tlsoption", "studio-tls")):
        assert exists(cluster, namespace, kind, name)
    status = cluster.get("zis", "studio", "-n", namespace)["status"]
    assert status["url"] == "https://img.example.org/"
    assert status["dialect"] == "traefik"
    # Outside the cluster nothing is probed, and nothing is claimed.
    found = conditions(cluster, namespace)
    assert {found[name]["reason"] for name in ("NetworkPolicyEnforced", "AuthConfigured")} == {"NotProbed"}


def test_the_policy_stands_before_the_first_pod_and_the_route_is_last(operator: Operator, namespace: str) -> None:
    serve(operator.cluster, namespace)
    writes = [
        entry["objectRef"]["resource"]
        for entry in operator.writes()
        if entry["objectRef"].get("namespace") == namespace and entry["objectRef"].get("subresource") != "status"
    ]
    assert writes[0] == "networkpolicies"
    assert writes.index("networkpolicies") < writes.index("deployments") < writes.index("ingresses")
    assert writes[-1] == "ingresses"


def test_a_hand_edit_is_put_back_and_its_author_named(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    serve(cluster, namespace)
    cluster.kubectl(
        "-n", namespace, "patch", "netpol", "studio", "--type=json", "--field-manager=mallory", "-p", json.dumps(HOLE)
    )
    eventually(
        lambda: len(cluster.get("netpol", "studio", "-n", namespace)["spec"]["ingress"][0]["from"]) == 1,
        "the policy is narrow again",
    )
    eventually(
        lambda: "mallory" in cluster.kubectl("-n", namespace, "describe", "zis", "studio"), "an event names mallory"
    )
    head = cluster.get("netpol", "studio", "-n", namespace, "--show-managed-fields")["metadata"]
    # For this very object: of another one that has got the name meanwhile the API server takes no such write.
    (repair,) = [entry for entry in policies(operator, namespace) if "uid" in entry["requestObject"]["metadata"]]
    assert repair["requestObject"]["metadata"]["uid"] == head["uid"]
    # And under the one name under which it was made.
    assert {entry["manager"] for entry in head["managedFields"]} == {"zimage-operator"}


def policies(operator: Operator, namespace: str) -> list[dict[str, Any]]:
    """The operator's writes of the service's NetworkPolicy."""
    found = (entry for entry in operator.writes() if entry["objectRef"].get("namespace") == namespace)
    return [entry for entry in found if entry["objectRef"]["resource"] == "networkpolicies"]


def test_generated_credentials_are_made_and_go(operator: Operator, namespace: str) -> None:
    """All about them is in test_credentials.py; here so that this file alone uses every right."""
    cluster = operator.cluster
    serve(cluster, namespace, auth={"basic": {"generate": True}})
    assert exists(cluster, namespace, "secret", "studio-credentials")
    cluster.apply(smallest(namespace=namespace))
    eventually(lambda: not exists(cluster, namespace, "secret", "studio-credentials"), "the Secrets are gone")


def test_devices_by_claim_and_an_autoscaler_are_made_and_go(operator: Operator, namespace: str) -> None:
    """All about them is in test_claims.py and test_autoscaling.py; here for the rights as well."""
    cluster = operator.cluster
    cluster.apply(smallest(namespace=namespace, gpu={"deviceClassName": "nobody"}, autoscaling={"maxReplicas": 2}))
    kinds = "resourceclaimtemplates,hpa"
    eventually(lambda: len(cluster.get(kinds, "-n", namespace)["items"]) == 2, "both are there")
    cluster.apply(smallest(namespace=namespace, replicas=0))
    eventually(lambda: not cluster.get(kinds, "-n", namespace)["items"], "both are gone")


def test_a_pod_monitor_is_made_found_by_name_and_goes(operator: Operator, namespace: str, pod_monitors: None) -> None:
    """All about it is in test_absent_kinds.py and test_drift.py; here for the rights as well."""
    cluster, asked = operator.cluster, {"gpu": {"count": 0}, "monitoring": {"podMonitor": True}}
    cluster.apply(smallest(namespace=namespace, **asked))
    wait_for(cluster, namespace, "Applied", "MonitoringReady")
    lose_labels(cluster, namespace, "podmonitors", 1)
    cluster.apply(smallest(namespace=namespace, **{**asked, "monitoring": {"podMonitor": False}}))
    eventually(lambda: not exists(cluster, namespace, "podmonitors"), "it is gone")


def test_a_model_is_fetched_by_a_job_and_another_by_another(operator: Operator, namespace: str) -> None:
    """All about it is in test_models.py; here so that this file alone uses every right."""
    cluster = operator.cluster
    source = {"repo": "Tongyi-MAI/Z-Image-Turbo", "revision": "1" * 40}
    cluster.apply(smallest(namespace=namespace, model={"huggingFace": source}))
    first = eventually(lambda: cluster.kubectl("-n", namespace, "get", "jobs", "-o", "name").strip(), "a Job")
    cluster.apply(smallest(namespace=namespace, model={"huggingFace": {**source, "revision": "2" * 40}}))
    eventually(lambda: not exists(cluster, namespace, "job", first.partition("/")[2]), "it makes way")
    assert exists(cluster, namespace, "pvc", "studio-model")


def test_what_is_deleted_comes_back(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    serve(cluster, namespace)
    for kind in ("netpol", "deploy", "svc", "ing", "cm"):
        cluster.kubectl("-n", namespace, "delete", kind, "studio", "--wait=true")
        eventually(lambda kind=kind: exists(cluster, namespace, kind), f"{kind} is back")


def test_a_lost_label_comes_back(operator: Operator, namespace: str) -> None:
    """Without the label no watch shows the object: it is found by name, and known by its owner."""
    serve(operator.cluster, namespace, gpu={"count": 0}, autoscaling={"maxReplicas": 2})
    lose_labels(operator.cluster, namespace, "netpol,sa,cm,deploy,svc,pdb,hpa,tlsoption,middleware,ing", 12)


def test_what_is_not_ours_is_left_alone(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    take(cluster, namespace, "studio")
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}))
    wait_for(cluster, namespace, "NotOwned")
    # No pod without its policy.
    assert not exists(cluster, namespace, "deploy")
    give_back(cluster, namespace, "studio")


def test_a_missing_class_is_named_and_its_arrival_noticed(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    ingress = {"host": "img.example.org", "className": f"late-{namespace}", "tls": {"secretName": "img-tls"}}
    cluster.apply(smallest(namespace=namespace, ingress=ingress))
    wait_for(cluster, namespace, "ClassNotFound")
    assert not exists(cluster, namespace, "ing")
    late = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": f"late-{namespace}"}}
    cluster.apply(late | {"spec": {"controller": "traefik.io/ingress-controller"}})
    wait_for(cluster, namespace, "Ready")
    cluster.kubectl("delete", "ingressclass", f"late-{namespace}")


def test_a_missing_volume_is_named_and_its_arrival_noticed(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    cluster.apply(smallest(namespace=namespace, model={"persistentVolumeClaim": {"claimName": "later"}}))
    wait_for(cluster, namespace, "VolumeMissing")
    claim(cluster, namespace, "later")
    wait_for(cluster, namespace, "Ready")


def test_a_second_gpu_is_waited_for(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    cluster.apply(smallest(namespace=namespace, gpu={"count": 2}))
    wait_for(cluster, namespace, "WaitingForGPU")
    # No route before there is a worker behind it; its protection stands already.
    assert not exists(cluster, namespace, "ing")
    assert exists(cluster, namespace, "middleware", "studio-auth")
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}))
    wait_for(cluster, namespace, "Ready")


@pytest.mark.parametrize(
    ("annotation", "wanted"),
    [("fakenode/waiting=ImagePullBackOff", "ImagePullFailed"), ("fakenode/exit=3", "CrashLoop")],
)
def test_trouble_of_a_pod_is_explained(operator: Operator, namespace: str, annotation: str, wanted: str) -> None:
    """The fake node plays the kubelet here; the real one is asked in tests/demo."""
    cluster = operator.cluster
    serve(cluster, namespace)
    name, _, _ = annotation.partition("=")
    cluster.kubectl("-n", namespace, "annotate", "pods", "--all", annotation)
    wait_for(cluster, namespace, wanted)
    cluster.kubectl("-n", namespace, "annotate", "pods", "--all", f"{name}-")
    wait_for(cluster, namespace, "Ready")


def test_scale_goes_through_and_ends_at_zero(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    serve(cluster, namespace)
    cluster.kubectl("-n", namespace, "scale", "zis", "studio", "--replicas=0")
    wait_for(cluster, namespace, "ScaledToZero", "WorkloadReady")
    assert cluster.get("deploy", "studio", "-n", namespace)["spec"]["replicas"] == 0


def test_what_is_no_longer_wanted_goes(operator: Operator, namespace: str) -> None:
    """What is ours, and this very object; not what only looks like it."""
    cluster = operator.cluster
    serve(cluster, namespace)
    uid = cluster.get("ing", "studio", "-n", namespace)["metadata"]["uid"]
    # With all our labels, and without an owner: a name that we never used.
    theirs = {"name": "theirs", "namespace": namespace, "labels": labels("studio")}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": theirs})
    route = cluster.get("ing", "studio", "-n", namespace)["spec"]
    route["rules"][0]["host"] = "theirs.example.org"
    cluster.apply({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": theirs, "spec": route})
    cluster.kubectl(
        "-n", namespace, "patch", "zis", "studio", "--type=json", "-p", '[{"op":"remove","path":"/spec/ingress"}]'
    )
    eventually(lambda: not exists(cluster, namespace, "ing"), "the route is gone")
    eventually(lambda: not exists(cluster, namespace, "middleware", "studio-auth"), "its helpers too")
    assert exists(cluster, namespace, "deploy")
    assert exists(cluster, namespace, "cm", "theirs")
    assert exists(cluster, namespace, "ing", "theirs")
    gone = [entry for entry in operator.writes() if entry["objectRef"].get("namespace") == namespace]
    asked = {entry["objectRef"]["resource"]: entry for entry in gone if entry["verb"] == "delete"}
    assert {"ingresses", "middlewares", "tlsoptions"} <= asked.keys()
    assert all(entry["requestObject"]["preconditions"]["uid"] for entry in asked.values())
    assert asked["ingresses"]["requestObject"]["preconditions"]["uid"] == uid


@pytest.mark.parametrize("last", ["resource", "namespace"])
def test_what_is_on_its_way_out_gets_nothing_more(operator: Operator, namespace: str, last: str) -> None:
    """A finalizer of somebody else's keeps it for a while: a child that goes meanwhile does not come back."""
    cluster = operator.cluster
    serve(cluster, namespace, gpu={"count": 0})
    cluster.kubectl(
        "-n", namespace, "patch", "zis", "studio", "--type=merge", "-p", '{"metadata":{"finalizers":["example.org/x"]}}'
    )
    if last == "resource":
        cluster.kubectl("-n", namespace, "delete", "zis", "studio", "--wait=false")
        eventually(lambda: cluster.get("zis", "studio", "-n", namespace)["metadata"].get("deletionTimestamp"))
    else:
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")
        eventually(lambda: "deletionTimestamp" in cluster.get("namespace", namespace)["metadata"], "it is on its way")
    try:
        cluster.kubectl("-n", namespace, "delete", "svc", "studio", "--ignore-not-found", "--wait=true")
        before = len(operator.writes())
        cluster.kubectl("-n", namespace, "label", "zis", "studio", "seen=yes")
        # Behind it in every stream comes somebody else's, who is served: by then this one was looked at.
        cluster.apply(smallest("another", "default", replicas=0, ingress=None))
        wait_for(cluster, "default", "Ready", name="another")
        time.sleep(2)
        assert not exists(cluster, namespace, "svc")
        mine = [entry for entry in operator.writes()[before:] if entry["objectRef"].get("namespace") == namespace]
        made = [
            entry for entry in mine if entry["responseStatus"]["code"] < 300 and "subresource" not in entry["objectRef"]
        ]
        assert made == []
        # A try that is refused is not made again and again.
        assert len(mine) <= 5
    finally:
        cluster.kubectl("-n", "default", "delete", "zis", "another")
        cluster.kubectl(
            "-n", namespace, "patch", "zis", "studio", "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
        )


def test_delete_leaves_nothing(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    serve(cluster, namespace)
    cluster.kubectl("-n", namespace, "delete", "zis", "studio")
    kinds = "netpol,cm,deploy,svc,ing,middleware,tlsoption,pods"
    selector = "app.kubernetes.io/managed-by=zimage-operator"
    eventually(
        lambda: not cluster.kubectl("-n", namespace, "get", kinds, "-l", selector, "-o", "name").strip(),
        "nothing is left",
    )


def test_a_restart_writes_nothing_and_rest_is_silent(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    serve(cluster, namespace)
    # Until the namespaces of earlier tests are gone there is other work.
    eventually(lambda: "Terminating" not in cluster.kubectl("get", "namespaces"), "no namespace is on its way out", 120)
    eventually(lambda: silent(operator, 3), "no more writes")
    before = len(operator.writes())
    operator.stop_in_order()
    operator.start_and_lead()
    # The streams list what they watch once, and each list is checked once for missed deletions; then there is rest.
    eventually(lambda: silent(operator, REST_SECONDS), f"nothing is asked for {REST_SECONDS} s", 120)
    assert operator.writes()[before:] == []


# Longer than every interval at which something is tried again (REFUSED_SECONDS and the back-off's first steps).
REST_SECONDS = 20


def silent(operator: Operator, seconds: float) -> bool:
    """Whether its last request is that long ago; the Lease and the streams' own renewals do not count."""
    asked = [
        datetime.fromisoformat(entry["stageTimestamp"])
        for entry in operator.requests()
        if entry.get("objectRef", {}).get("resource") != "leases" and entry["verb"] != "watch"
    ]
    return datetime.now(UTC) - max(asked) > timedelta(seconds=seconds)


def test_rights_granted_are_rights_used_and_no_secret_was_read(operator: Operator) -> None:
    """The last test of this file, in both directions, read off the audit log of all tests before it."""
    requests = operator.requests()
    assert len(requests) > 100
    # By the authorizer: that a namespace on its way out takes no new objects is no missing right.
    decision = "authorization.k8s.io/decision"
    forbidden = [entry["requestURI"] for entry in requests if entry["annotations"].get(decision) == "forbid"]
    assert forbidden == []
    used = {right for entry in requests if "objectRef" in entry for right in rights(entry)}
    assert granted() - used == set()
    secrets = [entry for entry in requests if entry.get("objectRef", {}).get("resource") == "secrets"]
    assert {entry["verb"] for entry in secrets} == {"create"}


Right = tuple[str, str, str]


def rights(entry: dict[str, Any]) -> set[Right]:
    """The rights (group, resource, verb) that one request needs."""
    target = entry["objectRef"]
    resource = "/".join(filter(None, (target["resource"], target.get("subresource"))))
    verbs = {entry["verb"]}
    # A server-side apply that creates is asked for `create` as well; the log shows it by its status only.
    if entry["verb"] == "patch" and entry["responseStatus"]["code"] == 201:
        verbs.add("create")
    return {(target.get("apiGroup", ""), resource, verb) for verb in verbs}


def granted() -> set[Right]:
    """The rights that operator/install.yaml gives."""
    documents = yaml.safe_load_all((ROOT / "operator" / "install.yaml").read_text())
    rules = [rule for item in documents if item["kind"] in ("Role", "ClusterRole") for rule in item["rules"]]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
