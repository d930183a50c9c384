"""The confused deputy: whoever may write a ZImageService must not borrow the operator's rights.

The rows T1 to T14 of the threat model; about ten attempts each, on the real API server where it
is the API server that has to say no, else on the pure builders.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args

import pytest
from prometheus_client import generate_latest
from pydantic import BaseModel

from cluster.api import Api
from cluster.control_plane import CommandFailed, ControlPlane
from laws import wait_for
from support import ROOT, Operator, eventually, smallest
from zimage_operator.__main__ import CONTROLLER, rendered
from zimage_operator.bounds import Bounds, check, client_namespaces, origin
from zimage_operator.crd import definition
from zimage_operator.errors import InvalidSpec, NotAllowed
from zimage_operator.logs import Json
from zimage_operator.measure import forget, measure
from zimage_operator.policy import secret_fields
from zimage_operator.reconcile import Outcome
from zimage_operator.settings import SOURCES
from zimage_operator.spec import Spec, parse

TLS = {"secretName": "img-tls"}
INGRESS = {"host": "img.example.org", "className": "traefik", "tls": TLS}


def refused_by_both(cluster: ControlPlane, body: dict[str, Any]) -> str:
    """The API server refuses a resource (unknown fields too), and so do the types; gives the server's words."""
    with pytest.raises(CommandFailed) as refused:
        cluster.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(body))
    with pytest.raises(InvalidSpec):
        parse(body, strict=True)
    return str(refused.value)


# --- T1: a reference into another namespace -------------------------------------------------------------------

FOREIGN_NAMES = ["other/users", "../users", "..", "/users", "a/../b", "users\n", "Users", "users#x", "users?x=1", "a b"]


@pytest.mark.control_plane
@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_t1_no_name_leads_out_of_the_namespace(installed: ControlPlane, name: str) -> None:
    for auth in ({"basic": {"secretName": name}}, {"jwt": {**JWT, "jwks": {"secretName": name}}}):
        assert "in this namespace" in refused_by_both(installed, smallest(auth=auth))


JWT = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"configMapName": "keys"}}


# A Gateway is offered to other namespaces by its own listener (allowedRoutes): it grants, and nothing of it is read
# or lent (docs/decisions/0300).
OFFERED = {("gateway", "parentRef", "namespace")}


def test_t1_no_reference_has_a_namespace() -> None:
    assert {path for path in fields(Spec) if path[-1] == "namespace"} == OFFERED


def fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field of a model, however deep."""
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        yield here
        for type_ in members(field.annotation):
            yield from fields(type_, here)


def members(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from members(part)


# --- T2: an author without rights on Deployments or Secrets ---------------------------------------------------

RIGHTS = {
    "zis": {"apiGroups": ["zimage.dev"], "resources": ["zimageservices"], "verbs": ["*"]},
    "deployments": {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]},
    "jobs": {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]},
    "claims": {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["create"]},
    "users": {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["studio-users"], "verbs": ["get"]},
    "tls": {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["img-tls"], "verbs": ["get"]},
}


@pytest.fixture(scope="module")
def guarded(installed: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with the admission policy, in force."""
    file = ROOT / "operator" / "admission-policy.yaml"
    installed.kubectl("apply", "--server-side", "-f", file)
    installed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "authors"}})
    author(installed, "nobody", ["zis"])
    # The API server compiles a new policy a moment later; a name of its own each time, for what was let through
    # before would then be unchanged, and not asked about.
    names = (f"early-{number}" for number in itertools.count())
    eventually(
        lambda: "create Deployments" in attempt(installed, "nobody", smallest(next(names), "authors")), "in force"
    )
    yield installed
    installed.kubectl("delete", "-f", file)
    installed.kubectl("delete", "namespace", "authors", "--wait=false")


def author(cluster: ControlPlane, name: str, rights: list[str]) -> None:
    """A ServiceAccount of namespace `authors` with some of RIGHTS."""
    head = {"name": name, "namespace": "authors"}
    api = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": name, "namespace": "authors"}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": head},
        {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": head, "rules": [RIGHTS[right] for right in rights]},
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": head,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    )


def attempt(cluster: ControlPlane, name: str, body: dict[str, Any]) -> str:
    """Try to write a resource as that author; the refusal's words, or nothing."""
    user = f"system:serviceaccount:authors:{name}"
    command = [cluster.facts["kubectl"], "--as", user, "apply", "--server-side", "--force-conflicts", "-f", "-"]
    answer = cluster.run(command, input=json.dumps(body), check=False)
    return answer.stderr if answer.returncode else ""


MATRIX = list(itertools.product([True, False], repeat=3))


@pytest.mark.control_plane
@pytest.mark.parametrize(("deployments", "users", "tls"), MATRIX)
def test_t2_an_author_can_have_only_what_that_author_could_make_by_hand(
    guarded: ControlPlane, deployments: bool, users: bool, tls: bool
) -> None:
    given = {"deployments": deployments, "users": users, "tls": tls}
    name = "author-" + "".join("y" if right else "n" for right in given.values())
    author(guarded, name, ["zis", *(right for right, has in given.items() if has)])
    body = smallest(name, "authors")
    said = eventually(
        # RBAC of a moment ago is not in the authorizer's cache yet.
        lambda: words if "cannot" not in (words := attempt(guarded, name, body) or "allowed") else "",
        "the policy has spoken",
    )
    assert (said == "allowed") == all(given.values())
    if not deployments:
        assert "you may not create Deployments in namespace authors" in said
        assert "ask for a Role with create on deployments.apps" in said
    elif not all(given.values()):
        # One at a time: the first is named.
        missing = "studio-users" if not users else "img-tls"
        assert f"you may not read Secret {missing} in namespace authors" in said


@pytest.mark.control_plane
@pytest.mark.parametrize(("lacking", "kinds"), [("jobs", "Jobs"), ("claims", "PersistentVolumeClaims")])
def test_t2_whose_model_is_fetched_must_be_allowed_what_fetches_it(
    guarded: ControlPlane, lacking: str, kinds: str
) -> None:
    rights = {"zis", "deployments", "jobs", "claims", "users", "tls"}
    author(guarded, f"without-{lacking}", sorted(rights - {lacking}))
    model = {"huggingFace": {"repo": "a/b", "revision": "0" * 40}}
    # With another source the same author may.
    eventually(lambda: not attempt(guarded, f"without-{lacking}", smallest("mine", "authors")), "the rights are known")
    said = attempt(guarded, f"without-{lacking}", smallest("mine", "authors", model=model))
    assert f"you may not create {kinds} in namespace authors" in said


# Each field that names a Secret, as a part of a spec.
NAMING: dict[str, dict[str, Any]] = {
    "model.huggingFace.tokenSecretName": {
        "model": {"huggingFace": {"repo": "a/b", "revision": "0" * 40, "tokenSecretName": "theirs"}}
    },
    "auth.basic.secretName": {"auth": {"basic": {"secretName": "theirs"}}},
    "auth.jwt.jwks.secretName": {"auth": {"jwt": {**JWT, "jwks": {"secretName": "theirs"}}}},
    "auth.token.signingKeySecretName": {
        "auth": {"basic": {"secretName": "studio-users"}, "token": {"enabled": True, "signingKeySecretName": "theirs"}}
    },
    "ingress.tls.secretName": {"ingress": {**INGRESS, "tls": {"secretName": "theirs"}}},
    "image.pullSecrets": {"image": {"repository": "r/i", "tag": "1", "pullSecrets": ["studio-users"] * 7 + ["theirs"]}},
}


@pytest.mark.control_plane
@pytest.mark.parametrize("field", NAMING)
def test_t2_no_field_that_names_a_secret_is_forgotten(guarded: ControlPlane, field: str) -> None:
    author(guarded, "almost", ["zis", "deployments", "jobs", "claims", "users", "tls"])
    eventually(lambda: not attempt(guarded, "almost", smallest("mine", "authors")), "the author may write this one")
    assert "you may not read Secret theirs" in attempt(guarded, "almost", smallest("mine", "authors", **NAMING[field]))


def test_t2_every_field_that_names_a_secret_has_its_attempt() -> None:
    """A new field fails here until NAMING has it."""
    assert {".".join(path) for path, _ in secret_fields()} == set(NAMING)
    named = {path for path in fields(Spec) if "secret" in path[-1].lower()}
    assert {path for path, _ in secret_fields()} == named


@pytest.mark.control_plane
def test_t2_labels_and_finalizers_of_a_foreign_resource_need_no_rights(guarded: ControlPlane) -> None:
    """What does not change the spec borrows nothing: else no controller could clear a resource away."""
    guarded.apply(smallest("theirs", "authors"))
    user = "system:serviceaccount:authors:nobody"
    guarded.kubectl("--as", user, "-n", "authors", "label", "zis", "theirs", "seen=yes")
    with pytest.raises(CommandFailed, match="create Deployments"):
        guarded.kubectl(
            "--as", user, "-n", "authors", "patch", "zis", "theirs", "--type=merge", "-p", '{"spec":{"replicas":2}}'
        )


# --- T3, T4, T5, T9: fields that would carry a pod, an identity, an annotation, an environment -----------------

UNKNOWN = {
    "T3 hostPath": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]},
    "T3 pod template": {"template": {"spec": {"hostNetwork": True}}},
    "T3 podTemplate": {"podTemplate": {"spec": {"hostPID": True}}},
    "T3 securityContext": {"securityContext": {"privileged": True}},
    "T3 command": {"command": ["sh", "-c", "id"]},
    "T3 args": {"args": ["--help"]},
    "T3 initContainers": {"initContainers": [{"name": "x", "image": "y"}]},
    "T3 sidecars": {"containers": [{"name": "x", "image": "y"}]},
    "T3 lifecycle": {"lifecycle": {"postStart": {"exec": {"command": ["id"]}}}},
    "T3 hostIPC": {"hostIPC": True},
    "T3 capabilities": {"capabilities": {"add": ["SYS_ADMIN"]}},
    "T3 affinity": {"affinity": {"nodeAffinity": {}}},
    "T4 serviceAccountName": {"serviceAccountName": "cluster-admin"},
    "T4 serviceAccount": {"serviceAccount": {"name": "cluster-admin"}},
    "T4 in scheduling": {"scheduling": {"serviceAccountName": "cluster-admin"}},
    "T4 token": {"automountServiceAccountToken": True},
    "T4 roles": {"rbac": {"create": True}},
    "T5 annotations": {"annotations": {"nginx.ingress.kubernetes.io/server-snippet": "x"}},
    "T5 labels": {"labels": {"app.kubernetes.io/instance": "other"}},
    "T5 pod annotations": {"podAnnotations": {"container.apparmor.security.beta.kubernetes.io/worker": "unconfined"}},
    "T5 pod labels": {"podLabels": {"app.kubernetes.io/name": "zimage-operator"}},
    "T5 ingress annotations": {"ingress": {**INGRESS, "annotations": {"a": "b"}}},
    "T5 ingress labels": {"ingress": {**INGRESS, "labels": {"a": "b"}}},
    "T5 service annotations": {"service": {"annotations": {"a": "b"}, "type": "LoadBalancer"}},
    "T9 env": {"env": [{"name": "LD_PRELOAD", "value": "/tmp/x.so"}]},
    "T9 envFrom": {"envFrom": [{"secretRef": {"name": "x"}}]},
    "T9 PYTHONPATH": {"generation": {"PYTHONPATH": "/tmp"}},
    "T9 HF_ENDPOINT": {"model": {"image": {"reference": "r/i@sha256:" + "0" * 64, "HF_ENDPOINT": "https://evil"}}},
}


@pytest.mark.control_plane
@pytest.mark.parametrize("attack", UNKNOWN)
def test_t3_t4_t5_t9_there_is_no_such_field(installed: ControlPlane, attack: str) -> None:
    assert "unknown field" in refused_by_both(installed, smallest(**UNKNOWN[attack]))


# A field of one of these names would be such a way, wherever it stands.
BORROWED = {
    "template", "podTemplate", "hostPath", "securityContext", "command", "args", "env", "envFrom", "initContainers",
    "containers", "volumes", "volumeMounts", "serviceAccountName", "annotations", "labels", "nodePort", "externalIPs",
    "loadBalancerIP", "hostNetwork", "hostPID", "namespace", "nodeName", "snippet", "lifecycle",
}  # fmt: skip


def test_t3_t4_t5_no_field_bears_a_name_that_lends_rights() -> None:
    assert {path for path in fields(Spec) if path[-1] in BORROWED} == OFFERED


HOSTILE_KEYS = [
    "a b", "a\nb", "a/b/c", "/a", "a/", "-a", "a-", "A_/b", "x" * 64, "kubernetes.io/" + "x" * 64,
    "a$(id)", "a`id`", "a;b", "a{{.}}", "a\\b", "a'b", 'a"b', "a,b", "a=b", "../a",
]  # fmt: skip


@pytest.mark.control_plane
def test_t5_hostile_label_keys_are_refused(installed: ControlPlane) -> None:
    for key in HOSTILE_KEYS:
        refused_by_both(installed, smallest(scheduling={"nodeSelector": {key: "x"}}))
        with pytest.raises(InvalidSpec):
            parse(smallest(network={"proxyPodLabels": {key: "x"}}))


@pytest.mark.control_plane
def test_t5_what_an_author_writes_on_the_resource_stays_there(operator: Operator, namespace: str) -> None:
    cluster, body = operator.cluster, smallest(namespace=namespace, gpu={"count": 0})
    body["metadata"] |= {
        "annotations": {"sidecar.istio.io/inject": "true", "zimage.dev/applied-hash": "0" * 24},
        "labels": {"app.kubernetes.io/instance": "other", "app.kubernetes.io/managed-by": "zimage-operator"},
    }
    cluster.apply(body)
    eventually(lambda: cluster.kubectl("-n", namespace, "get", "deploy", "studio", "--ignore-not-found", "-o", "name"))
    template = cluster.get("deploy", "studio", "-n", namespace)["spec"]["template"]["metadata"]
    assert template["labels"]["app.kubernetes.io/instance"] == "studio"
    assert set(template["annotations"]) == {"zimage.dev/template-revision"}


# --- T6: text that would break out of the edge's configuration -------------------------------------------------

HOSTS = [
    "a.example.org`) || Host(`b.example.org", "a.example.org\n", "a.example.org;", "a.example.org{", "a.example.org#",
    'a.example.org"', "a.example.org/path", "*.example.org", "a.example.org:443", "a..example.org", "-a.example.org",
    "a.example.org$host", "a.example.org\\", "a_b.example.org", "A.EXAMPLE.ORG", "a.example.org%0a", "é.example.org",
    "a.example.org\r\nSet-Cookie: x", "${jndi:ldap://x}", "a" * 64 + ".org",
]  # fmt: skip
RANGES = ["10.0.0.0/8, 0.0.0.0/0", "0.0.0.0", "10.0.0.0/33", "all", "10.0.0.0/8;", "::/129", "10.0.0.0/8\n", "$x"]


@pytest.mark.control_plane
def test_t6_no_host_and_no_range_breaks_out(installed: ControlPlane) -> None:
    for host in HOSTS:
        refused_by_both(installed, smallest(ingress={**INGRESS, "host": host}))
    for item in RANGES:
        refused_by_both(installed, smallest(ingress={**INGRESS, "allowedSourceRanges": [item]}))


def test_t6_the_annotations_hold_names_that_we_made_and_nothing_else() -> None:
    """The author's text reaches the route as host, class and Secret alone, each a name by its rule."""
    ingress = {**INGRESS, "allowedSourceRanges": ["10.0.0.0/8"], "rateLimit": {"requestsPerMinute": 1, "burst": 1}}
    route = next(item for item in rendered(smallest(ingress=ingress), CONTROLLER) if item["kind"] == "Ingress")
    text = json.dumps(route["metadata"]["annotations"])
    assert "10.0.0.0" not in text
    assert set(route["metadata"]["annotations"]) == {
        f"traefik.ingress.kubernetes.io/router.{name}" for name in ("middlewares", "tls", "tls.options")
    }


# --- T7: two namespaces claim one host (HostConflict is reported by the exposure audit) -------------------------

# Any namespace below example.org's public part, team-a below its own, team-b one host.
TEAMS = Bounds(hosts=(("", ".public.example.org"), ("team-a", ".a.example.org"), ("team-b", "b.example.org")))
HIJACKS = [
    ("team-a", "b.example.org"), ("team-b", "img.a.example.org"), ("team-c", "img.a.example.org"),
    ("team-a", "a.example.org"), ("team-a", "evila.example.org"), ("team-a", "img.a.example.org.evil.org"),
    ("team-b", "img.b.example.org"), ("team-b", "xb.example.org"), ("team-c", "public.example.org"),
    ("team-c", "example.org"), ("team-a", "img.a-example.org"), ("team-a-b", "img.a.example.org"),
]  # fmt: skip


@pytest.mark.parametrize(("namespace", "host"), HIJACKS)
def test_t7_no_namespace_takes_a_host_of_another(namespace: str, host: str) -> None:
    told = refused(TEAMS, namespace, ingress={**INGRESS, "host": host})
    assert told.startswith(f"spec.ingress.host: this cluster's operator publishes namespace {namespace} under ")
    # What to write: a host of one's own, and nobody else's.
    assert "NAME.public.example.org" in told
    assert ("NAME.a.example.org" in told) == (namespace == "team-a")


OWN_HOSTS = [("team-a", "img.a.example.org"), ("team-b", "b.example.org"), ("team-c", "a.b.public.example.org")]


@pytest.mark.parametrize(("namespace", "host"), OWN_HOSTS)
def test_t7_a_host_of_ones_own_is_taken(namespace: str, host: str) -> None:
    check(parse(smallest(namespace=namespace, ingress={**INGRESS, "host": host})), TEAMS)
    check(parse(smallest(namespace="team-x", ingress=None)), TEAMS)


def test_t7_who_has_no_host_is_told_whom_to_ask() -> None:
    told = refused(Bounds(hosts=(("team-a", "a.example.org"),)), "team-b")
    assert "remove spec.ingress, or ask the cluster's administrator for one in ZIMAGE_OPERATOR_ALLOWED_HOSTS" in told
    assert "a.example.org" not in told


def refused(bounds: Bounds, namespace: str = "team-a", **spec: Any) -> str:
    """The refusal of a resource that is beyond the bounds, and is fine without them."""
    service = parse(smallest(namespace=namespace, **spec), strict=True)
    check(service, Bounds(jwks_url=True))
    with pytest.raises(NotAllowed) as told:
        check(service, bounds)
    return str(told.value)


def test_t7_the_route_serves_the_one_host_that_is_named() -> None:
    """No default backend, no second rule, no wildcard: a claim is one name that an audit can compare."""
    for auth in ({"basic": {"secretName": "u"}}, {"jwt": JWT}, {"basic": {"generate": True}}):
        for item in rendered(smallest(auth=auth), CONTROLLER):
            if item["kind"] == "Ingress":
                assert [rule["host"] for rule in item["spec"]["rules"]] == ["img.example.org"]
                assert item["spec"]["tls"] == [{"hosts": ["img.example.org"], "secretName": "img-tls"}]
                assert "defaultBackend" not in item["spec"]


# --- T8: a policy that is wider than it says -------------------------------------------------------------------

NETWORKS = [
    {"allowedNamespaces": ["*"]},
    {"allowedNamespaces": [""]},
    {"allowedNamespaces": []},
    {"allowedNamespaces": ["dmz,default"]},
    {"allowedNamespaces": ["dmz", "Default"]},
    {"allowedNamespaces": [{"namespaceSelector": {}}]},
    {"allowedNamespaceLabels": {}},
    {"allowedNamespaceLabels": {"name": "*"}},
    {"allowedNamespaceLabels": {"": "dmz"}},
    {"allowedNamespaceLabels": {"name": "a b"}},
    {"allowedNamespaceLabels": {"matchExpressions": [{"key": "name", "operator": "Exists"}]}},
    {"allowedNamespaceLabels": {"kubernetes.io/metadata.name": "default"}},
    {"allowedNamespaceLabels": {"name": "dmz"}, "allowedNamespaces": ["dmz", "default"]},
    {"metricsNamespaces": ["*"]},
    {"proxyPodLabels": {"": ""}},
    {"proxyPodLabels": {"a": "b c"}},
    {"enforcement": "None"},
    {"egress": [{}]},
]


@pytest.mark.control_plane
@pytest.mark.parametrize("network", NETWORKS, ids=json.dumps)
def test_t8_no_network_part_says_everybody(installed: ControlPlane, network: dict[str, Any]) -> None:
    refused_by_both(installed, smallest(network=network))


@pytest.mark.parametrize("names", [["dmz"], ["dmz", "edge"], ["a", "b", "c"], ["kube-system"]])
def test_t8_every_peer_names_a_namespace_and_7860_is_for_the_listed_alone(names: list[str]) -> None:
    item = rendered(smallest(network={"allowedNamespaces": names}), CONTROLLER)[0]
    for rule in item["spec"]["ingress"]:
        found = [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in rule["from"]]
        if rule["ports"] == [{"port": 7860, "protocol": "TCP"}]:
            assert found == names
        else:
            assert rule["ports"] == [{"port": 9090, "protocol": "TCP"}]
    assert len(item["spec"]["ingress"]) == 2


def test_t8_labels_are_one_peer_that_demands_all_of_them_and_stand_in_place_of_names() -> None:
    network = {"allowedNamespaceLabels": {"name": "dmz", "tier": "edge"}, "proxyPodLabels": {"app": "traefik"}}
    proxies = rendered(smallest(network=network), CONTROLLER)[0]["spec"]["ingress"][0]
    selector = {"matchLabels": {"name": "dmz", "tier": "edge"}}
    assert proxies["from"] == [{"namespaceSelector": selector, "podSelector": {"matchLabels": {"app": "traefik"}}}]
    assert proxies["ports"] == [{"port": 7860, "protocol": "TCP"}]


DMZ = Bounds(client_namespaces=("dmz", "edge"))
ADMITTED = [
    ["default"], ["kube-system"], ["dmz", "default"], ["edge", "dmz", "x"], ["dm"], ["dmzz"], ["dmz-2"], ["team-a"],
    ["monitoring"], ["zimage-system"], ["dmz", "edge", "kube-public"],
]  # fmt: skip


@pytest.mark.parametrize("names", ADMITTED, ids=",".join)
def test_t8_nobody_is_admitted_whom_the_administrator_does_not(names: list[str]) -> None:
    told = refused(DMZ, network={"allowedNamespaces": names})
    excess = ", ".join(name for name in names if name not in DMZ.client_namespaces)
    assert told.startswith(f"spec.network.allowedNamespaces: this cluster's operator does not admit {excess} (")
    assert told.endswith("write some of [dmz, edge]")


def test_t8_a_resource_can_only_narrow() -> None:
    """Every set of namespaces: what passes is a subset, and every subset passes."""
    names = ["dmz", "edge", "default", "kube-system"]
    for count in range(1, len(names) + 1):
        for some in itertools.combinations(names, count):
            service = parse(smallest(network={"allowedNamespaces": list(some)}))
            assert bool(list(client_namespaces(service, DMZ))) != (set(some) <= {"dmz", "edge"})


BY_LABEL = Bounds(client_labels=(("name", "dmz"), ("zone", "")))
LABELS: dict[str, tuple[Bounds, dict[str, str], str]] = {
    "no bound": (Bounds(), {"a": "b"}, ""),
    "listed": (BY_LABEL, {"name": "dmz"}, ""),
    "listed and more": (BY_LABEL, {"name": "dmz", "tier": "edge"}, ""),
    "the other, whose value is empty": (BY_LABEL, {"zone": ""}, ""),
    "another value": (BY_LABEL, {"name": "dmz2"}, "labelled name: dmz or zone:  only"),
    "another label": (BY_LABEL, {"mine": "dmz"}, "labelled name: dmz or zone:  only"),
    "round a bound of names": (DMZ, {"name": "dmz"}, "by name only: write some of [dmz, edge] in allowedNamespaces"),
    "both": (replace(DMZ, client_labels=BY_LABEL.client_labels), {"name": "dmz"}, ""),
}


@pytest.mark.parametrize("case", LABELS)
def test_t8_labels_are_no_way_round_the_bounds(case: str) -> None:
    bounds, labels, told = LABELS[case]
    network = {"network": {"allowedNamespaceLabels": labels}}
    if told:
        assert told in refused(bounds, **network)
    else:
        check(parse(smallest(**network)), bounds)


def test_t8_the_default_is_held_against_the_bound_too() -> None:
    assert "does not admit dmz" in refused(Bounds(client_namespaces=("edge",)))


# --- T9: an image or keys from where the administrator does not want them ---------------------------------------

IMAGES = ["evil.example.org/worker", "registry.example.org.evil.org/worker", "registry.example.orgx/w", "library/w"]


@pytest.mark.parametrize("repository", [*IMAGES, "registry.example.org-evil/w", "registry.example.org"])
@pytest.mark.parametrize("prefix", ["registry.example.org/team", "registry.example.org/team/"])
def test_t9_an_image_of_another_registry_is_refused(repository: str, prefix: str) -> None:
    told = refused(Bounds(image_prefixes=(prefix,)), image={"repository": repository, "tag": "1"})
    assert told == f"spec.image.repository: this cluster's operator allows images from {prefix} only"


@pytest.mark.parametrize("repository", ["registry.example.org/team", "registry.example.org/team/worker"])
def test_t9_an_image_of_the_right_registry_is_taken(repository: str) -> None:
    bounds = Bounds(image_prefixes=("registry.example.org/team",))
    check(parse(smallest(image={"repository": repository, "tag": "1"})), bounds)
    # A name that only begins like it is another one's.
    assert refused(bounds, image={"repository": "registry.example.org/team2/worker", "tag": "1"})


def test_t9_a_tag_is_refused_where_digests_are_asked_for() -> None:
    bounds, digest = Bounds(image_digest=True), "sha256:" + "a" * 64
    told = refused(bounds, image={"repository": "r.example.org/w", "tag": "1"})
    assert told.endswith("write digest: sha256:… in place of tag")
    check(parse(smallest(image={"repository": "r.example.org/w", "digest": digest})), bounds)
    check(parse(smallest()), bounds)


def test_t9_no_worker_opens_connections_unless_the_administrator_says_so() -> None:
    by_address = {"auth": {"jwt": {**JWT, "jwks": {"url": "https://login.example.org/keys"}}}}
    assert "ZIMAGE_OPERATOR_ALLOW_JWKS_URL" in refused(Bounds(), **by_address)
    check(parse(smallest(**by_address)), Bounds(jwks_url=True))


SUM = "@sha256:" + "a" * 64
MODELS = Bounds(models=("image:registry.example.org/models/*", "persistentVolumeClaim:z-image-turbo"))
WEIGHTS: list[dict[str, Any]] = [
    {"persistentVolumeClaim": {"claimName": "mine"}},
    {"persistentVolumeClaim": {"claimName": "z-image"}},
    {"persistentVolumeClaim": {"claimName": "z-image-turbo-2"}},
    {"persistentVolumeClaim": {"claimName": "z-image-turbo.evil"}},
    {"persistentVolumeClaim": {"claimName": "registry.example.org"}},
    {"huggingFace": {"repo": "registry.example.org/models", "revision": "0" * 40}},
    {"image": {"reference": f"registry.example.org/models{SUM}"}},
    {"image": {"reference": f"registry.example.org/models-evil/z{SUM}"}},
    {"image": {"reference": f"registry.example.org.evil.org/models/z{SUM}"}},
    {"image": {"reference": f"library/z{SUM}"}},
    {"image": {"reference": f"evil.example.org/registry.example.org/models/z{SUM}"}},
]


@pytest.mark.parametrize("model", WEIGHTS, ids=json.dumps)
def test_t9_weights_that_the_administrator_did_not_list_are_refused(model: dict[str, Any]) -> None:
    told = refused(MODELS, model=model)
    assert told.startswith(f"spec.model: this cluster's operator allows {' or '.join(MODELS.models)} only (")
    assert told.endswith(f"write one of these instead of {origin(parse(smallest(model=model)).model.source)}")


def test_t9_weights_of_the_list_are_taken() -> None:
    check(parse(smallest(model={"image": {"reference": f"registry.example.org/models/z{SUM}"}})), MODELS)
    check(parse(smallest()), MODELS)


def test_t9_every_source_of_a_model_has_an_origin() -> None:
    """Named as its field is, so that ALLOWED_MODELS reads like the resource."""
    hub = {"repo": "a/b", "revision": "0" * 40}
    claim, image = {"claimName": "c"}, {"reference": f"r/i{SUM}"}
    for source, part in {"huggingFace": hub, "persistentVolumeClaim": claim, "image": image}.items():
        assert origin(parse(smallest(model={source: part})).model.source).startswith(f"{source}:")
        assert source in SOURCES
    # The server belongs to it: its checksums are the only ones there are.
    here, there = (
        origin(parse(smallest(model={"huggingFace": {**hub, **more}})).model.source)
        for more in ({}, {"endpoint": "https://hub.example.org"})
    )
    assert here == f"huggingFace:https://huggingface.co/a/b@{'0' * 40}"
    assert there == f"huggingFace:https://hub.example.org/a/b@{'0' * 40}"


# --- T10: more than a fair share --------------------------------------------------------------------------------

GREEDY: list[dict[str, Any]] = [
    {"replicas": 1001},
    {"replicas": 10**9},
    {"replicas": -1},
    {"gpu": {"count": 17}},
    {"gpu": {"count": -1}},
    {"scheduling": {"priorityClassName": "system-cluster-critical"}},
    {"scheduling": {"priorityClassName": "system-node-critical"}},
    {"generation": {"maxPixels": 10**9}},
    {"generation": {"queueLength": 10**6}},
    {"rollout": {"drainSeconds": 10**6}},
    {"resources": {"limits": {"memory": "-1"}}},
]


@pytest.mark.control_plane
@pytest.mark.parametrize("spec", GREEDY, ids=json.dumps)
def test_t10_the_bounds_hold(installed: ControlPlane, spec: dict[str, Any]) -> None:
    refused_by_both(installed, smallest(**spec))


SERVING = Bounds(priority_classes=("gpu-serving", "gpu-batch"))
PRIORITIES = [
    "gpu", "gpu-serving-2", "gpu-servin", "batch", "high", "gpu.serving", "a", "critical", "xgpu-serving", "gpu-batch.x"
]  # fmt: skip


@pytest.mark.parametrize("name", PRIORITIES)
def test_t10_a_priority_that_the_administrator_did_not_list_is_refused(name: str) -> None:
    told = refused(SERVING, scheduling={"priorityClassName": name})
    assert told.startswith("spec.scheduling.priorityClassName: this cluster's operator allows gpu-serving or gpu-batch")
    assert told.endswith("write one of these, or leave it out")


def test_t10_a_listed_priority_and_none_are_taken() -> None:
    check(parse(smallest(scheduling={"priorityClassName": "gpu-batch"})), SERVING)
    check(parse(smallest()), SERVING)


def test_every_bound_that_is_broken_has_its_line() -> None:
    everything = Bounds((("r.example.org"),), True, False, TEAMS.hosts, ("edge",), (), MODELS.models, ("p",))
    worst = {
        "image": {"repository": "x", "tag": "1"},
        "model": WEIGHTS[0],
        "scheduling": {"priorityClassName": "q"},
        "auth": {"jwt": {**JWT, "jwks": {"url": "https://login.example.org/keys"}}},
    }
    fields = [line.split(":")[0] for line in refused(everything, **worst).splitlines()]
    assert fields == [
        *("spec.image.repository", "spec.image.digest", "spec.auth.jwt.jwks.url", "spec.ingress.host"),
        *("spec.network.allowedNamespaces", "spec.model", "spec.scheduling.priorityClassName"),
    ]


# --- T11: a status, an annotation, a finalizer of the author's own ----------------------------------------------

FORGED = [
    {"conditions": [{"type": "Ready", "status": "True"}]},
    {"conditions": [{"type": "NetworkPolicyEnforced", "status": "True"}]},
    {"conditions": [{"type": "AuthConfigured", "status": "True"}]},
    {"url": "https://evil.example.org/"},
    {"auth": "None"},
    {"dialect": "plain"},
    {"selector": "app=other"},
    {"replicas": 99},
    {"observedGeneration": 10**9},
    {"conditions": [{"type": "Audited", "status": "True"}]},
    {"certificate": {"notAfter": "2099-01-01T00:00:00Z"}},
]


@pytest.mark.control_plane
def test_t11_what_the_author_writes_into_the_status_is_not_believed(operator: Operator, namespace: str) -> None:
    cluster, moment = operator.cluster, "2026-01-01T00:00:00Z"
    ingress = {**INGRESS, "className": "nowhere"}
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, replicas=0, ingress=ingress))

    def told() -> dict[str, Any]:
        status: dict[str, Any] = cluster.get("zis", "studio", "-n", namespace)["status"]
        return status

    def reasons() -> dict[str, str]:
        return {item["type"]: item["reason"] for item in told().get("conditions", [])}

    eventually(lambda: reasons().get("Ready") == "ClassNotFound", "the missing class is told")
    eventually(lambda: reasons().get("WorkloadReady") == "ScaledToZero", "nothing moves any more")
    before = told()
    for forged in FORGED:
        dates = {"reason": "Forged", "message": "x", "lastTransitionTime": moment}
        conditions = [{**item, **dates} for item in forged.get("conditions", [])]  # type: ignore[union-attr]
        part = json.dumps({"status": {**forged, **({"conditions": conditions} if conditions else {})}})
        patch = ["-n", namespace, "patch", "zis", "studio", "--subresource=status", "--type=merge", "-p", part]
        cluster.kubectl(*patch)
        eventually(lambda: undated(told()) == undated(before), f"{forged} is gone")
    assert not cluster.kubectl("-n", namespace, "get", "ing", "-o", "name")


def undated(status: dict[str, Any]) -> dict[str, Any]:
    """A status without the times of its transitions: a forged one was a transition."""
    kept = [{key: value for key, value in item.items() if key != "lastTransitionTime"} for item in status["conditions"]]
    return {**status, "conditions": sorted(kept, key=lambda item: str(item["type"]))}


# --- T12: an object of the wanted name, with a forged owner ------------------------------------------------------

OWNERS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "another uid": [{"uid": "22222222-2222-2222-2222-222222222222"}],
    "not the controller": [{"controller": False}],
    "another kind": [{"kind": "ZImageServer"}],
}
COLLECTED = {"another uid", "another kind"}
KINDS = {
    "ConfigMap": {"apiVersion": "v1", "kind": "ConfigMap", "data": {"ZIMAGE_AUTH_MODE": "None"}},
    "ServiceAccount": {"apiVersion": "v1", "kind": "ServiceAccount"},
    "Service": {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 1}], "selector": {"app": "x"}}},
}


@pytest.mark.control_plane
@pytest.mark.parametrize("kind", KINDS)
def test_t12_a_forged_owner_is_not_taken_for_ours(operator: Operator, namespace: str, kind: str) -> None:
    """Four names at once, each taken in another way before its resource came."""
    cluster, urls = operator.cluster, {"jwt": {**JWT, "jwks": {"url": "https://login.example.org/keys"}}}
    names = {f"svc-{number}": case for number, case in enumerate(OWNERS)}
    for name, case in names.items():
        # Not allowed here: nothing is built before the spec is mended, and the uid is known.
        cluster.apply(smallest(name, namespace, ingress=None, auth=urls))
        uid = cluster.get("zis", name, "-n", namespace)["metadata"]["uid"]
        owner = {"apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageService", "name": name, "uid": uid}
        labels = {"app.kubernetes.io/managed-by": "zimage-operator", "app.kubernetes.io/instance": name}
        head = {"name": name, "namespace": namespace, "labels": labels, "annotations": {"mine": "yes"}}
        owners = [{**owner, "controller": True, **change} for change in OWNERS[case]]
        cluster.apply({**KINDS[kind], "metadata": {**head, "ownerReferences": owners}})
        cluster.apply(smallest(name, namespace, ingress=None, gpu={"count": 0}, replicas=0))
    for name, case in names.items():
        if case in COLLECTED:
            continue  # the garbage collector clears it away, and ours may come
        eventually(lambda name=name: reason(cluster, namespace, name) == "NotOwned", f"{case} is reported")  # type: ignore[misc]
        assert cluster.get(kind, name, "-n", namespace)["metadata"]["annotations"] == {"mine": "yes"}


def reason(cluster: ControlPlane, namespace: str, name: str = "studio") -> str:
    conditions = cluster.get("zis", name, "-n", namespace)["status"].get("conditions", [])
    return next((str(item["reason"]) for item in conditions if item["type"] == "Ready"), "")


# --- T13: text in logs and labels of metrics ---------------------------------------------------------------------

LINES = ["a\nb", 'a"b', "a\r\nb", "\x1b[31mred", "{}", "a\u2028b", "a\x00b", "%s %d", "'; drop", "\\u000a"]


@pytest.mark.parametrize("text", LINES, ids=ascii)
def test_t13_one_record_is_one_line(text: str) -> None:
    import logging

    line = Json().format(logging.LogRecord("x", logging.INFO, "f", 1, "%s", (text,), None))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == text


def test_t13_series_are_counted_per_service_and_go_with_it() -> None:
    def series() -> int:
        return generate_latest().count(b"zimage_service_condition{")

    before = series()
    for number in range(300):
        conditions = [{"type": "Ready", "status": "False", "reason": f"R{number}", "message": "x" * number}]
        measure(("team-a", f"s{number}"), Outcome({"conditions": conditions}))
    # Three states of one condition each: reasons and messages, which anybody can influence, are no labels.
    assert series() - before == 3 * 300
    for number in range(300):
        forget(("team-a", f"s{number}"))
    assert series() == before


# --- T14: resources that are too large ---------------------------------------------------------------------------

LARGE: dict[str, dict[str, Any]] = {
    "waiver": {"auth": {"mode": "None", "waiverReason": "x" * 501}},
    "host": {"ingress": {**INGRESS, "host": ("a" * 60 + ".") * 5 + "org"}},
    "namespaces": {"network": {"allowedNamespaces": [f"n{i}" for i in range(33)]}},
    "namespace labels": {"network": {"allowedNamespaceLabels": {f"k{i}": "v" for i in range(9)}}},
    "ranges": {"ingress": {**INGRESS, "allowedSourceRanges": [f"10.0.{i}.0/24" for i in range(65)]}},
    "tolerations": {"scheduling": {"tolerations": [{"key": f"k{i}"} for i in range(17)]}},
    "selector": {"scheduling": {"nodeSelector": {f"k{i}": "v" for i in range(17)}}},
    "secret": {"auth": {"basic": {"secretName": "a" * 254}}},
    "issuer": {"auth": {"jwt": {**JWT, "issuer": "https://" + "a" * 505}}},
    "audiences": {"auth": {"jwt": {**JWT, "audiences": [f"a{i}" for i in range(17)]}}},
    "claims": {"auth": {"jwt": {**JWT, "requiredClaims": [f"a{i}" for i in range(17)]}}},
}


@pytest.mark.control_plane
@pytest.mark.parametrize("part", LARGE)
def test_t14_every_text_and_list_has_its_end(installed: ControlPlane, part: str) -> None:
    refused_by_both(installed, smallest(**LARGE[part]))


FLOOD = 150
# Sixteen workers that go on with the flood while the one change is brought in place, in a few requests.
AT_ONCE = 75


@contextmanager
def flooded(cluster: ControlPlane, namespace: str) -> Iterator[None]:
    """An author edits hundreds of resources without end; each costs the operator a reconcile and a write."""
    kind = f"/apis/zimage.dev/v1alpha1/namespaces/{namespace}/zimageservices"
    by_address = {"jwt": {**JWT, "jwks": {"url": "https://login.example.org/keys"}}}
    stop, began = threading.Event(), threading.Semaphore(0)

    def edit(part: int) -> None:
        api = Api(cluster.kubeconfig)
        names = [f"flood-{number}" for number in range(part, FLOOD, 4)]
        for name in names:
            api.request("POST", kind, smallest(name, namespace, ingress=None, auth=by_address))
        began.release()
        for replicas in itertools.cycle(range(2, 9)):
            for name in names:
                if stop.is_set():
                    return
                api.merge(f"{kind}/{name}", {"spec": {"replicas": replicas}})

    threads = [threading.Thread(target=edit, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert all(began.acquire(timeout=120) for _ in threads), "the flood has begun"
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        Api(cluster.kubeconfig).request("DELETE", kind)


@pytest.mark.control_plane
def test_t14_a_flood_of_one_author_holds_up_nobody(operator: Operator, namespace: str) -> None:
    """In the operator's own writes, not in seconds: how many for the flood come before the one for somebody else."""
    cluster, place = operator.cluster, "t-quiet"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place}})
    cluster.apply(smallest(namespace=place, ingress=None, replicas=0))
    wait_for(cluster, place, "Ready")
    with flooded(cluster, namespace):
        for steps in range(11, 21):
            patch = json.dumps({"spec": {"generation": {"maxSteps": steps}}})
            cluster.kubectl("-n", place, "patch", "zis", "studio", "--type=merge", "-p", patch)
            eventually(lambda steps=steps: steps_of(cluster, place) == str(steps), "the change is in place")  # type: ignore[misc]
    # The last ten: its creation was one too.
    before = list(passed_by(cluster, operator, namespace, place))[-10:]
    cluster.kubectl("delete", "namespace", place, "--wait=false")
    assert len(before) == 10
    assert max(before) < AT_ONCE, before


def steps_of(cluster: ControlPlane, place: str) -> str:
    return str(cluster.get("cm", "studio", "-n", place)["data"]["ZIMAGE_MAX_STEPS"])


def passed_by(cluster: ControlPlane, operator: Operator, flood: str, place: str) -> Iterator[int]:
    """Of each change in `place`: how many statuses of the flood were written before it was brought in place."""
    count, since = 0, None
    ours = {entry["auditID"] for entry in operator.requests()}
    for entry in cluster.audit():
        target = entry.get("objectRef", {})
        where, what = target.get("namespace"), target.get("resource")
        if entry["verb"] != "patch":
            continue
        if entry["auditID"] not in ours and (where, what) == (place, "zimageservices"):
            since = count
        elif entry["auditID"] in ours and (where, what) == (flood, "zimageservices"):
            count += 1
        elif entry["auditID"] in ours and (where, what) == (place, "configmaps") and since is not None:
            yield count - since
            since = None


def test_t14_the_schema_has_no_text_without_an_end() -> None:
    schema = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert list(endless(schema, "spec")) == []


def endless(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Texts, lists and maps without a bound."""
    bounds = {"string": "maxLength", "array": "maxItems"}
    kind = schema.get("type")
    if kind in bounds and bounds[kind] not in schema and "enum" not in schema:
        yield path
    if "additionalProperties" in schema and "maxProperties" not in schema:
        yield path
    for name, member in schema.get("properties", {}).items():
        yield from endless(member, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from endless(schema[name], f"{path}[]")
