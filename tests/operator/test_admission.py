"""Bad input at `kubectl apply`, against the real API server: refused, with what to write instead.

Each row is also held against spec.parse(): the schema and the types must agree.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.control_plane import CommandFailed, ControlPlane
from support import smallest
from zimage_operator.errors import InvalidSpec
from zimage_operator.spec import parse

pytestmark = pytest.mark.control_plane

TLS = {"secretName": "img-tls"}


def ingress(**more: object) -> dict[str, object]:
    body = {"host": "img.example.org", "className": "traefik", "tls": TLS, **more}
    return {"ingress": {key: value for key, value in body.items() if value is not None}}


JWT = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"configMapName": "studio-jwks"}}
BASIC = {"secretName": "studio-users"}
TOKEN = {"enabled": True, "signingKeySecretName": "studio-signing"}


def jwt(**more: object) -> dict[str, object]:
    return {"auth": {"jwt": {**JWT, **more}}}


HUB = {"repo": "Tongyi-MAI/Z-Image-Turbo", "revision": "0" * 40}


def hub(**more: object) -> dict[str, object]:
    return {"model": {"huggingFace": {**HUB, **more}}}


BAD = {
    "hub by branch": (hub(revision="main"), "write a commit, 40 hex digits"),
    "hub without a revision": ({"model": {"huggingFace": {"repo": "a/b"}}}, "revision"),
    "hub repo upwards": (hub(repo="../b"), "write a repository such as Tongyi-MAI/Z-Image-Turbo"),
    "hub repo as an option": (hub(repo="--to"), "write a repository such as"),
    "hub with a user": (hub(endpoint="https://u:p@hub.example.org"), "no user"),
    "hub by file": (hub(endpoint="file:///etc"), "write an address such as https://hub.example.org"),
    "hub with a query": (hub(endpoint="https://hub.example.org/?a=b"), "no '?'"),
    "hub token over http": (hub(endpoint="http://hub.example.org", tokenSecretName="t"), "in the clear"),
    "hub token elsewhere": (hub(tokenSecretName="other/token"), "no '/'"),
    "storage beside a claim": (
        {"model": {"persistentVolumeClaim": {"claimName": "a"}, "storage": {"size": "1Gi"}}},
        "model.storage is the volume of model.huggingFace",
    ),
    "storage for one pod": (
        {"model": {"huggingFace": HUB, "storage": {"accessMode": "ReadWriteOncePod"}}},
        "accessMode",
    ),
    "storage without a size": ({"model": {"huggingFace": HUB, "storage": {"size": "big"}}}, "Kubernetes quantity"),
    "basic with both": ({"auth": {"basic": {**BASIC, "generate": True}}}, "either auth.basic.secretName"),
    "basic with neither": ({"auth": {"basic": {}}}, "either auth.basic.secretName"),
    "generate off": ({"auth": {"basic": {"generate": False}}}, "either auth.basic.secretName"),
    "auth with nothing": ({"auth": {}}, "write auth.basic.secretName"),
    "mode Basic with jwt": ({"auth": {"mode": "Basic", "basic": BASIC, "jwt": JWT}}, "auth.mode: Any for both"),
    "mode JWT with basic": ({"auth": {"mode": "JWT", "basic": BASIC, "jwt": JWT}}, "auth.mode: Any for both"),
    "mode JWT without jwt": ({"auth": {"mode": "JWT", "basic": BASIC}}, "auth.mode JWT needs auth.jwt"),
    "mode Any without jwt": ({"auth": {"mode": "Any", "basic": BASIC}}, "auth.mode Any needs auth.basic, and auth.jwt"),
    "mode Any without basic": ({"auth": {"mode": "Any", "jwt": JWT}}, "auth.mode Any needs auth.basic"),
    "mode None with jwt": (
        {"auth": {"mode": "None", "jwt": JWT, "waiverReason": "a demonstration inside the office"}},
        "contradicts",
    ),
    "token without basic": ({"auth": {"jwt": JWT, "token": TOKEN}}, "write auth.basic too"),
    "token without key": ({"auth": {"basic": BASIC, "token": {"enabled": True}}}, "openssl rand -base64 48"),
    "token for a week": ({"auth": {"basic": BASIC, "token": {**TOKEN, "ttlSeconds": 604800}}}, "86400"),
    "jwt without audience": (jwt(audiences=[]), "list at least one audience"),
    "jwt audience with a comma": (jwt(audiences=["a,b"]), "without blanks and commas"),
    "jwt issuer with a newline": (jwt(issuer="https://a\nZIMAGE_AUTH_MODE=None"), "exact text of the tokens' iss"),
    "jwt algorithm none": (jwt(algorithms=["none"]), "none"),
    "jwt algorithms mixed": (
        jwt(algorithms=["RS256", "HS256"], jwks={"secretName": "keys"}),
        "a public key would count as a shared secret",
    ),
    "jwt HS in a ConfigMap": (jwt(algorithms=["HS256"]), "keep it in a Secret"),
    "jwks with two sources": (jwt(jwks={"secretName": "a", "configMapName": "b"}), "exactly one source of the keys"),
    "jwks with none": (jwt(jwks={}), "exactly one source of the keys"),
    "jwks over http": (jwt(jwks={"url": "http://login.example.org/keys"}), "https, no user"),
    "jwks with a user": (jwt(jwks={"url": "https://u:p@login.example.org/keys"}), "no user"),
    "jwks at port 65536": (jwt(jwks={"url": "https://login.example.org:65536/"}), "write an address"),
    "jwks in another namespace": (jwt(jwks={"secretName": "other/keys"}), "no '/'"),
    "claim with a comma": (jwt(requiredClaims=["a=b,c"]), "name or name=value"),
    "username claim with a blank": (jwt(usernameClaim="a b"), "write the name of a claim"),
    "no auth": ({"auth": None}, "write spec.auth: who may use the service"),
    "no model": ({"model": None}, "write spec.model"),
    "mode None without a reason": ({"auth": {"mode": "None"}}, "say why in auth.waiverReason"),
    "mode None with a short reason": ({"auth": {"mode": "None", "waiverReason": "because"}}, "waiverReason"),
    "mode Basic without a secret": ({"auth": {"mode": "Basic"}}, "write auth.basic.secretName"),
    "host without TLS": (ingress(tls=None), "write ingress.tls.secretName"),
    "host without class": (ingress(className=None), "write ingress.className"),
    "host with a space": (ingress(host="img example.org"), "write a host name such as img.example.org"),
    "host with an underscore": (ingress(host="img_1.example.org"), "write a host name such as"),
    "host with a wildcard": (ingress(host="*.example.org"), "no wildcard"),
    "host with a scheme": (ingress(host="https://img.example.org"), "no scheme"),
    "host with a newline": (ingress(host="img.example.org\n"), "write a host name such as"),
    "no allowed namespace": ({"network": {"allowedNamespaces": []}}, "list at least one namespace"),
    "two model sources": (
        {"model": {"persistentVolumeClaim": {"claimName": "a"}, "image": {"reference": "r/i@sha256:" + "0" * 64}}},
        "write exactly one source of the model",
    ),
    "no model source": ({"model": {}}, "write exactly one source of the model"),
    "secret with ..": ({"auth": {"basic": {"secretName": "../users"}}}, "write the name of a Secret"),
    "secret with /": ({"auth": {"basic": {"secretName": "other/users"}}}, "no '/'"),
    "claim path upwards": (
        {"model": {"persistentVolumeClaim": {"claimName": "a", "path": "../../etc"}}},
        "write a folder inside the volume",
    ),
    "system priority": ({"scheduling": {"priorityClassName": "system-node-critical"}}, "those that begin with system-"),
    "replicas": ({"replicas": 1001}, "1000"),
    "replicas beside autoscaling": (
        {"replicas": 2, "autoscaling": {"maxReplicas": 3}},
        "set autoscaling.minReplicas instead",
    ),
    "none beside autoscaling": ({"replicas": 0, "autoscaling": {"maxReplicas": 3}}, "write suspend: true"),
    "autoscaling upside down": ({"autoscaling": {"minReplicas": 4, "maxReplicas": 3}}, "raise the maximum"),
    "autoscaling to zero": ({"autoscaling": {"minReplicas": 0, "maxReplicas": 3}}, "greater than or equal to 1"),
    "autoscaling without an end": ({"autoscaling": {}}, "maxReplicas"),
    "plugin and driver": (
        {"gpu": {"resourceName": "nvidia.com/gpu", "deviceClassName": "gpu.nvidia.com"}},
        "either gpu.resourceName (a device plugin) or gpu.deviceClassName (a DRA driver)",
    ),
    "memory without a GPU": ({"gpu": {"count": 0, "memory": "24Gi"}}, "gpu.memory is the memory of a GPU"),
    "memory": ({"gpu": {"memory": "24 GB"}}, "write a Kubernetes quantity"),
    "device class": ({"gpu": {"deviceClassName": "GPU"}}, "write the name of a DeviceClass of this cluster"),
    "toleration of everything": ({"scheduling": {"tolerations": [{"effect": "NoSchedule"}]}}, "operator: Exists"),
    "toleration with a value too many": (
        {"scheduling": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}},
        "remove value",
    ),
    "toleration for a time": (
        {"scheduling": {"tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 3}]}},
        "NoExecute only",
    ),
    "spread over no label": ({"scheduling": {"topologySpread": [{"topologyKey": "a b"}]}}, "write a label of nodes"),
    "quantity": ({"resources": {"requests": {"memory": "8 GB"}}}, "write a Kubernetes quantity"),
    "request above limit": ({"resources": {"requests": {"memory": "17Gi"}}}, "raise the limit"),
    "cidr": (ingress(allowedSourceRanges=["10.0.0.1/8"]), "write an address range"),
    "label key": ({"scheduling": {"nodeSelector": {"a b": "c"}}}, "write label keys"),
    "image tag and digest": (
        {"image": {"repository": "r/i", "tag": "1", "digest": "sha256:" + "0" * 64}},
        "either image.tag or image.digest",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_with_advice(installed: ControlPlane, case: str) -> None:
    spec, advice = BAD[case]
    body = smallest("bad", **spec)
    with pytest.raises(CommandFailed) as refused:
        installed.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(body))
    assert advice in str(refused.value)
    with pytest.raises(InvalidSpec):
        parse(body)


def test_long_name_is_refused(installed: ControlPlane) -> None:
    body = smallest("n" * 41)
    with pytest.raises(CommandFailed, match="at most 40 characters"):
        installed.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(body))
    with pytest.raises(InvalidSpec, match="at most 40 characters"):
        parse(body)


def test_unknown_field_is_named(installed: ControlPlane) -> None:
    body = smallest("bad", replica=2)
    with pytest.raises(CommandFailed, match=r'unknown field "spec\.replica"'):
        installed.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(body))
    with pytest.raises(InvalidSpec, match=r"spec\.replica: there is no such field"):
        parse(body, strict=True)


# What was there, what is written now, and what is said: only the API server knows both.
CHANGES: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "larger": ({"size": "60Gi"}, {"size": "61Gi"}, ""),
    "larger than the default": ({}, {"size": "0.1Ti"}, ""),
    "smaller": ({"size": "60Gi"}, {"size": "59Gi"}, "size can grow only"),
    "smaller than the default": ({}, {"size": "59Gi"}, "size can grow only"),
    "another class": ({"storageClassName": "a"}, {"storageClassName": "b"}, "storageClassName cannot change"),
    "no class": ({"storageClassName": "a"}, {}, "storageClassName cannot change"),
    "a class": ({}, {"storageClassName": "a"}, "storageClassName cannot change"),
    "the same class": ({"storageClassName": "a"}, {"storageClassName": "a", "size": "61Gi"}, ""),
    "another mode": ({}, {"accessMode": "ReadWriteMany"}, "accessMode cannot change"),
    "the default mode": ({}, {"accessMode": "ReadWriteOnce"}, ""),
    "without storage": ({"accessMode": "ReadWriteMany"}, {}, "accessMode cannot change"),
}


def remodel(cluster: ControlPlane, body: dict[str, Any]) -> None:
    """Ask for another model. A patch, for no `replace` may meet a status that an operator writes at the same time."""
    change = [{"op": "replace", "path": "/spec/model", "value": body["spec"]["model"]}]
    cluster.kubectl(
        "patch", "zis", body["metadata"]["name"], "--dry-run=server", "--type=json", "-p", json.dumps(change)
    )


@pytest.mark.parametrize("case", CHANGES)
def test_a_volume_stays_as_it_was_made(installed: ControlPlane, case: str) -> None:
    before, after, advice = CHANGES[case]
    name = f"volume-{list(CHANGES).index(case)}"
    first, second = (smallest(name, model={"huggingFace": HUB, "storage": part}) for part in (before, after))
    if not after:
        del second["spec"]["model"]["storage"]
    installed.kubectl("create", "-f", "-", input=json.dumps(first))
    try:
        if not advice:
            remodel(installed, second)
            return
        with pytest.raises(CommandFailed) as refused:
            remodel(installed, second)
        assert advice in str(refused.value)
    finally:
        installed.kubectl("delete", "zis", name)


def test_another_source_has_no_volume_to_keep(installed: ControlPlane) -> None:
    installed.kubectl("create", "-f", "-", input=json.dumps(smallest("other-source")))
    body = smallest("other-source", model={"huggingFace": HUB, "storage": {"storageClassName": "a", "size": "1Gi"}})
    remodel(installed, body)
    installed.kubectl("delete", "zis", "other-source")


GOOD = {
    "hub": hub(),
    "hub by mirror": hub(endpoint="http://hub.team-a.svc:8080/mirror"),
    "hub with a token": hub(endpoint="https://hub.example.org", tokenSecretName="hub-token"),
    "hub with storage": {"model": {"huggingFace": HUB, "storage": {"size": 107374182400, "storageClassName": "fast"}}},
    "generated": {"auth": {"basic": {"generate": True}}},
    "jwt": jwt(algorithms=["RS256", "EdDSA"], requiredClaims=["group=artists", "email"], usernameClaim="email"),
    "HS in a Secret": jwt(algorithms=["HS256"], jwks={"secretName": "keys"}),
    "keys by address": jwt(jwks={"url": "https://login.example.org:8443/realms/a/keys?v=1"}),
    "any": {"auth": {"basic": BASIC, "jwt": JWT}},
    "any, written": {"auth": {"mode": "Any", "basic": BASIC, "jwt": JWT}},
    "token": {"auth": {"basic": BASIC, "token": TOKEN}},
    "passwords at /token alone": {"auth": {"mode": "JWT", "basic": BASIC, "token": TOKEN}},
    "smallest": {},
    "waived": {"auth": {"mode": "None", "waiverReason": "a demonstration inside the office network"}},
    "inside only": {"ingress": None},
    "numbers as quantities": {"resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}}},
    "ranges": ingress(allowedSourceRanges=["10.0.0.0/8", "2001:db8::/32"]),
    "no GPU": {"gpu": {"count": 0}},
    "memory of the GPU": {"gpu": {"memory": "80Gi"}, "generation": {"maxPixels": 4194304}},
    "MIG": {"gpu": {"resourceName": "nvidia.com/mig-3g.40gb"}},
    "DRA": {"gpu": {"deviceClassName": "gpu.nvidia.com", "count": 2}},
    "autoscaled": {"autoscaling": {"minReplicas": 2, "maxReplicas": 8, "targetQueueDepth": 2}},
    "autoscaled, with the default of replicas": {"replicas": 1, "autoscaling": {"maxReplicas": 8}},
    "suspended": {"suspend": True},
    "spread": {"scheduling": {"topologySpread": [{"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 2}]}},
    "spread nowhere": {"scheduling": {"topologySpread": []}},
}


@pytest.mark.parametrize("case", GOOD)
def test_accepted_by_both(installed: ControlPlane, case: str) -> None:
    body = smallest("good", **GOOD[case])
    installed.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(body))
    parse(body, strict=True)


def test_new_object_is_not_taken_for_healthy(installed: ControlPlane) -> None:
    """kstatus calls an object without status Current: the CRD's default status prevents it."""
    text = installed.kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(smallest("new")))
    assert json.loads(text)["status"] == {"observedGeneration": -1}
