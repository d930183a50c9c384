"""The walls on the real node: real Calico, kubelet and worker; the operator probes from its own pod.

Each way in which isolation is lost is made by hand, and what the status says of it is read. Never
does it say Enforced where that was not seen.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile
from typing import Any

import pytest

from cluster import edge, images
from cluster.node import Node
from cluster.node_init import ADDRESS
from demo import scene
from reasons import WALLS
from recorder import Recorder
from support import CLASS, ROOT

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

NAME = "walled"
SERVICES = "/apis/zimage.dev/v1alpha1/zimageservices"
# What is asked of the real thing is 60 s; a probe a few seconds apart sees it at once.
INTERVAL_SECONDS = 3
SETTINGS = {
    "ZIMAGE_OPERATOR_PROBE_INTERVAL_SECONDS": str(INTERVAL_SECONDS),
    "ZIMAGE_OPERATOR_EDGE_PROBE": f"{edge.ADDRESS}:443",
    "ZIMAGE_OPERATOR_ALLOW_JWKS_URL": "true",
}


def configured(node: Node, *settings: str) -> None:
    """Run the operator with settings of the test's own; `NAME-` takes one back."""
    operator = ["-n", "zimage-system", "deployment/zimage-operator"]
    node.kubectl("set", "env", *operator, *settings)
    node.kubectl("rollout", "status", *operator, "--timeout=120s")


def resource(**spec: Any) -> dict[str, Any]:
    """A service on the processor with a route, whose enforcement is required."""
    body = scene.resource()
    network = {"enforcement": "Required"}
    metadata = {"name": NAME, "namespace": scene.NAMESPACE}
    return {**body, "metadata": metadata, "spec": {**body["spec"], "gpu": {"count": 0}, "network": network, **spec}}


def status(node: Node, name: str = NAME) -> dict[str, Any]:
    return dict(scene.looked_at(node.get("zis", name, "-n", scene.NAMESPACE)).get("status", {}))


def condition(node: Node, kind: str, name: str = NAME) -> dict[str, str]:
    return next((item for item in status(node, name).get("conditions", []) if item["type"] == kind), {})


def becomes(node: Node, kind: str, reason: str, seconds: float = 120, name: str = NAME) -> None:
    try:
        scene.wait(lambda: condition(node, kind, name).get("reason") == reason, f"{kind} {reason}", seconds)
    except AssertionError as error:
        found = status(node, name).get("conditions", [])
        seen = [f"{item['type']} {item['reason']}: {item['message']}" for item in found]
        raise AssertionError("\n".join([str(error), *seen])) from error


def verdicts(seen: Recorder, begin: int = 0) -> list[str]:
    """What each version of the service said of its walls, in order; `begin`: without so many."""
    seen.catch_up()
    bodies = [scene.looked_at(item) for item in seen.versions(scene.NAMESPACE, NAME)[begin:]]
    found = [item.get("status", {}).get("conditions", []) for item in bodies]
    return [item["reason"] for each in found for item in each if item["type"] == "NetworkPolicyEnforced"]


@contextmanager
def never_enforced(node: Node, seen: Recorder, result: str = "") -> Iterator[None]:
    """While this lasts the walls do not stand: once a look has found that, no version says Enforced.

    `result`: what the looks find. Some more of them are waited for: the second may be wrong where the first was not.
    """
    seen.catch_up()
    begin = len(seen.versions(scene.NAMESPACE, NAME))
    yield
    if result:
        counted = looks(node, result)
        scene.wait(lambda: looks(node, result) >= counted + 2, f"two looks that find it {result}", 60)
    told = list(dropwhile("Enforced".__eq__, verdicts(seen, begin)))
    assert told
    assert "Enforced" not in told


def routed(node: Node) -> bool:
    return bool(node.kubectl("-n", scene.NAMESPACE, "get", "ingress", NAME, "--ignore-not-found", "-o", "name").strip())


@pytest.fixture(scope="module")
def seen(node: Node) -> Recorder:
    """Every version of every service from the first on."""
    node.kubectl("apply", "--server-side", "-f", ROOT / "crds")
    node.kubectl("wait", "--for=condition=Established", "crd/zimageservices.zimage.dev", "--timeout=60s")
    return Recorder(node, SERVICES)


@pytest.fixture(scope="module")
def walled(node: Node, seen: Recorder) -> Iterator[Node]:
    """The service, published because its walls were seen to stand."""
    scene.prepare(node)
    configured(node, *(f"{name}={value}" for name, value in SETTINGS.items()))
    node.apply(resource())
    becomes(node, "Ready", "Ready", scene.PATIENCE_SECONDS)
    becomes(node, "NetworkPolicyEnforced", "Enforced")
    yield node
    node.kubectl("delete", "zis", NAME, "-n", scene.NAMESPACE)
    configured(node, *(f"{name}-" for name in SETTINGS))


def test_enforced_says_when_it_was_seen(walled: Node) -> None:
    seen = status(walled)
    assert seen["lastProbeTime"]
    assert routed(walled)
    found = metrics(walled)
    series = f'{{name="{NAME}",namespace="{scene.NAMESPACE}"}}'
    assert found[f"zimage_service_last_probe_timestamp_seconds{series}"] > 0


def test_the_edge_refuses_strangers_and_the_status_says_so(walled: Node) -> None:
    told = "strangers are refused at the published URL (401)"
    scene.wait(lambda: told in condition(walled, "AuthConfigured")["message"], told, 60)


def replicas(node: Node) -> list[dict[str, Any]]:
    """The operator's pods that run."""
    marked = ["-l", "app.kubernetes.io/name=zimage-operator", "--field-selector", "status.phase=Running"]
    return list(node.get("pods", "-n", "zimage-system", *marked)["items"])


def metrics(node: Node) -> dict[str, float]:
    """Every series of the replica that acts, by its name and labels in order; none while nobody does."""
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
    for pod in replicas(node):
        inside = ["kubectl", "-n", "zimage-system", "exec", pod["metadata"]["name"], "--", "python3", "-c", code]
        lines = node.run(inside, check=False).stdout.splitlines()
        series = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        found = {ordered(name): float(value) for name, value in series}
        if found.get("zimage_operator_leader") == 1:
            return found
    return {}


def ordered(series: str) -> str:
    """A series with its labels in alphabetical order."""
    name, brace, rest = series.partition("{")
    labels = ",".join(sorted(rest.rstrip("}").split(","))) if brace else ""
    return f"{name}{{{labels}}}" if brace else name


def test_at_rest_the_probes_write_nothing(walled: Node) -> None:
    """They look every few seconds, and what they find is what they found."""
    before, counted = version(walled), looks(walled)
    scene.wait(lambda: looks(walled) >= counted + 2, "two looks", 60)
    assert version(walled) == before


def version(node: Node) -> str:
    """Changes with every write to the resource."""
    return str(node.get("zis", NAME, "-n", scene.NAMESPACE)["metadata"]["resourceVersion"])


def looks(node: Node, result: str = "blocked") -> float:
    """How often the replica that acts has found the walls standing, or something else."""
    return metrics(node).get(f'zimage_operator_probes_total{{result="{result}"}}', 0)


def test_another_leader_writes_nothing_either(walled: Node) -> None:
    """What the last process saw is not thrown away because the next one has not looked yet."""
    before = version(walled)
    holder = ["-n", "zimage-system", "get", "lease", "zimage-operator", "-o", "jsonpath={.spec.holderIdentity}"]
    old = walled.kubectl(*holder)
    walled.kubectl("-n", "zimage-system", "delete", "pod", old.rpartition("-")[0], "--wait=false")
    scene.wait(lambda: walled.kubectl(*holder) not in ("", old), "another one leads", 60)
    scene.wait(lambda: looks(walled) >= 2, "it has looked", 60)
    assert version(walled) == before


WIDE = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "wide", "namespace": scene.NAMESPACE},
    "spec": {"podSelector": {}, "ingress": [{}]},
}
# It stands before every NetworkPolicy, and the audit cannot know what other engines offer: the probe sees it.
GLOBAL = {
    "apiVersion": "crd.projectcalico.org/v1",
    "kind": "GlobalNetworkPolicy",
    "metadata": {"name": "hole"},
    "spec": {
        "order": 1,
        "selector": "app.kubernetes.io/name == 'zimage'",
        "types": ["Ingress"],
        "ingress": [{"action": "Allow"}],
    },
}


@pytest.mark.parametrize("hole", [WIDE, GLOBAL], ids=["a second policy", "a policy of Calico's own"])
def test_a_hole_costs_the_route_and_mending_it_brings_it_back(
    walled: Node, seen: Recorder, hole: dict[str, Any]
) -> None:
    with never_enforced(walled, seen, "open"):
        walled.apply(hole)
        becomes(walled, "NetworkPolicyEnforced", "NotEnforced")
        scene.wait(lambda: not routed(walled), "no route while strangers get in", 60)
        assert "url" not in status(walled)
        if hole is WIDE:
            assert condition(walled, "ExposureAsDeclared")["reason"] == "OtherPolicyWidens"
    where = ["-n", scene.NAMESPACE] if hole is WIDE else []
    walled.kubectl(*where, "delete", hole["kind"].lower(), hole["metadata"]["name"])
    becomes(walled, "NetworkPolicyEnforced", "Enforced")
    scene.wait(lambda: routed(walled), "the route is back", 60)
    becomes(walled, "ExposureAsDeclared", "AsDeclared")


@contextmanager
def cut(node: Node) -> Iterator[None]:
    """Drop every packet between the operator's pods and the worker, before Calico sees it."""
    sources = ", ".join(pod["status"]["podIP"] for pod in replicas(node))
    rule = f"ip saddr {{ {sources} }} tcp dport {{ 7860, 9090 }} drop"
    table = f"table ip cut {{ chain c {{ type filter hook prerouting priority -500; {rule}; }}; }}"
    node.run(["nft", table])
    try:
        yield
    finally:
        node.run(["nft", "delete table ip cut"])


def test_a_cut_network_is_never_taken_for_a_wall(walled: Node, seen: Recorder) -> None:
    with cut(walled), never_enforced(walled, seen, "unreachable"):
        becomes(walled, "NetworkPolicyEnforced", "ProbeFailed")
        # Missing evidence is no evidence against: who had a route keeps it.
        assert routed(walled)
    becomes(walled, "NetworkPolicyEnforced", "Enforced")


WORKER = {f"app.kubernetes.io/{key}": value for key, value in (("name", "zimage"), ("instance", NAME))}
WORKER["app.kubernetes.io/component"] = "worker"
PORT = 7860


def opened(node: Node, made: dict[str, Any], reason: str) -> None:
    """Make something by hand and see it named."""
    node.apply(made)
    becomes(node, "ExposureAsDeclared", reason)
    assert f"{made['kind']} {made['metadata']['name']}" in condition(node, "ExposureAsDeclared")["message"]


def closed(node: Node, made: dict[str, Any]) -> None:
    """Take it away again and see that told."""
    node.kubectl("-n", scene.NAMESPACE, "delete", made["kind"], made["metadata"]["name"])
    becomes(node, "ExposureAsDeclared", "AsDeclared")


def test_a_pod_on_the_nodes_network_is_open_to_all_and_named(walled: Node) -> None:
    """No policy holds for it, so no probe of the workers sees it: it bears their labels where PodSecurity admits it."""
    place, level = ["namespace", scene.NAMESPACE, "--overwrite"], "pod-security.kubernetes.io/enforce="
    server = ["python3", "-m", "http.server", str(PORT)]
    # With no second at all the API server forgets the pod before the kubelet has ended it.
    body = {**scene.restricted("localhost/probe:test", server), "hostNetwork": True, "terminationGracePeriodSeconds": 1}
    head = {"name": "bare", "namespace": scene.NAMESPACE, "labels": WORKER}
    bare = {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": body}
    walled.kubectl("label", *place, f"{level}privileged")
    try:
        opened(walled, bare, "HostNetworkPod")
        # Not only by its looks: whoever is in the cluster gets in.
        scene.wait(lambda: scene.connects(walled, "elsewhere", f"{ADDRESS}/{PORT}"), "it is open to strangers", 60)
        assert not scene.connects(walled, "elsewhere", f"{address(walled)}/{PORT}")
    finally:
        closed(walled, bare)
        walled.kubectl("label", *place, f"{level}restricted")
    assert not scene.connects(walled, "elsewhere", f"{ADDRESS}/{PORT}")


def address(node: Node) -> str:
    """Of the one worker."""
    marked = ["-l", ",".join(f"{key}={value}" for key, value in WORKER.items())]
    pods = node.get("pods", "-n", scene.NAMESPACE, *marked)["items"]
    found = [pod["status"]["podIP"] for pod in pods if not pod["spec"].get("hostNetwork")]
    assert len(found) == 1
    return str(found[0])


def test_a_node_port_is_named_while_the_policy_still_holds(walled: Node) -> None:
    """A second door leads to the same wall: the audit tells of the door, the probe of the wall, and both are right."""
    head = {"name": "door", "namespace": scene.NAMESPACE}
    spec = {"type": "NodePort", "selector": WORKER, "ports": [{"port": PORT}]}
    door = {"apiVersion": "v1", "kind": "Service", "metadata": head, "spec": spec}
    opened(walled, door, "ExtraService")
    number = walled.get("service", "door", "-n", scene.NAMESPACE)["spec"]["ports"][0]["nodePort"]
    # Past the edge, with its TLS and its limits: from the node itself no policy keeps anybody out.
    scene.wait(lambda: scene.connects(walled, "", f"{ADDRESS}/{number}"), "the port is open on the node", 60)
    assert scene.connects(walled, "dmz", f"{ADDRESS}/{number}")
    assert not scene.connects(walled, "elsewhere", f"{ADDRESS}/{number}")
    assert condition(walled, "NetworkPolicyEnforced")["reason"] == "Enforced"
    closed(walled, door)


LABEL, VALUE = "example.org/zone", "edge"


def labelled(node: Node, place: str, *, on: bool = True) -> None:
    node.kubectl("label", "namespace", place, f"{LABEL}={VALUE}" if on else f"{LABEL}-")


def admits(node: Node, wanted: str) -> None:
    """Wait until the status names those who get in now, and until that is so: for the three that have a probe."""
    told = f"every namespace labelled {LABEL}={VALUE}, now {wanted}; weaker than names"
    scene.wait(lambda: told in condition(node, "NetworkPolicyReady")["message"], told, 60)
    target, names = f"{NAME}.{scene.NAMESPACE}.svc/{PORT}", wanted.split(", ")
    for place in ("dmz", "elsewhere", "zimage-system"):
        expected = place in names
        scene.wait(
            lambda place=place, expected=expected: scene.connects(node, place, target) == expected,
            f"{place} {'reaches' if expected else 'does not reach'} the worker",
            60,
        )


def test_namespaces_by_label_get_in_as_long_as_they_carry_it(walled: Node, seen: Recorder) -> None:
    """Calico opens and closes with the label, the status names who carries it, and the probe sees the wall."""
    walled.apply(resource(network={"enforcement": "Required", "allowedNamespaceLabels": {LABEL: VALUE}}))
    try:
        admits(walled, "none: nobody gets in")
        labelled(walled, "dmz")
        admits(walled, "dmz")
        labelled(walled, "elsewhere")
        admits(walled, "dmz, elsewhere")
        labelled(walled, "elsewhere", on=False)
        admits(walled, "dmz")
        becomes(walled, "NetworkPolicyEnforced", "Enforced")
        assert routed(walled)
        with never_enforced(walled, seen):
            # Let in itself the operator can tell nothing any more, and says so.
            labelled(walled, "zimage-system")
            admits(walled, "dmz, zimage-system")
            becomes(walled, "NetworkPolicyEnforced", "NotProbed")
        labelled(walled, "zimage-system", on=False)
        admits(walled, "dmz")
        becomes(walled, "NetworkPolicyEnforced", "Enforced")
    finally:
        for place in ("dmz", "elsewhere", "zimage-system"):
            labelled(walled, place, on=False)
        walled.apply(resource())
    becomes(walled, "Ready", "Ready")
    becomes(walled, "NetworkPolicyEnforced", "Enforced")


# Answers everybody with 200: what a proxy that logs in itself looks like from outside.
GREETER = """
import http.server
class Greeter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("", 8443), Greeter).serve_forever()
"""


@pytest.fixture(scope="module")
def greeter(walled: Node) -> str:
    """A pod in a namespace without policies, and its Service."""
    place, marked = "elsewhere", {"app": "greeter"}
    body = scene.restricted("localhost/probe:test", ["python3", "-c", GREETER])
    head = {"name": "greeter", "namespace": place, "labels": marked}
    ports = [{"port": 8443}]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": body}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": head, "spec": {"selector": marked, "ports": ports}}
    walled.apply(pod, service)
    walled.kubectl("-n", place, "wait", "--for=condition=Ready", "pod/greeter", "--timeout=120s")
    return place


def test_a_door_that_lets_strangers_in_is_seen_from_outside(walled: Node, greeter: str) -> None:
    """Another route in front of ours answers for the whole host."""
    services = [{"name": "greeter", "port": 8443}]
    rule = {"kind": "Rule", "match": f"Host(`{scene.HOST}`)", "priority": 10_000, "services": services}
    door = {
        "apiVersion": "traefik.io/v1alpha1",
        "kind": "IngressRoute",
        "metadata": {"name": "door", "namespace": greeter},
        "spec": {"entryPoints": ["websecure"], "routes": [rule], "tls": {}},
    }
    walled.apply(door)
    becomes(walled, "AuthConfigured", "EdgeOpen")
    assert "look for another route to this host" in condition(walled, "AuthConfigured")["message"]
    walled.kubectl("-n", greeter, "delete", "ingressroute", "door")
    becomes(walled, "AuthConfigured", "Loaded")


def test_an_issuer_that_is_none_is_told(walled: Node, greeter: str) -> None:
    """Keys by address, where a setting allows them: DNS and the port are open, and who is there speaks no TLS."""
    url = f"https://greeter.{greeter}.svc.cluster.local:8443/keys"
    jwt = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"url": url}}
    empty = {"persistentVolumeClaim": {"claimName": "z-image-turbo", "path": "none"}}
    body = resource(model=empty, auth={"jwt": jwt}, ingress=None, network={})
    body["spec"] = {key: value for key, value in body["spec"].items() if value is not None}
    walled.apply({**body, "metadata": {"name": "asking", "namespace": scene.NAMESPACE}})
    becomes(walled, "AuthConfigured", "JWKSUnreachable", name="asking")

    def told() -> str:
        return condition(walled, "AuthConfigured", "asking")["message"]

    scene.wait(lambda: "TLS failed" in told(), "neither DNS nor the port is in the way", 90)
    walled.kubectl("-n", scene.NAMESPACE, "delete", "zis", "asking")


def test_without_an_engine_nothing_is_called_enforced_and_no_route_comes(walled: Node) -> None:
    with Node([images.operator_image(), images.worker_image()], policy="none") as bare:
        edge.traefik_crds_up(bare)
        bare.kubectl("apply", "--server-side", "-f", ROOT / "crds")
        bare.kubectl("wait", "--for=condition=Established", "crd/zimageservices.zimage.dev", "--timeout=60s")
        told = Recorder(bare, SERVICES)
        bare.apply(*scene.operator_documents(), CLASS, scene.namespace(scene.NAMESPACE))
        bare.apply(scene.secret("studio-users", {"auth": scene.entry("alice", "a long enough one")}))
        scene.certificates(bare)
        # The same weights: making them again would only take time.
        shutil.copytree(walled.directory / "model", bare.directory / "model")
        scene.volume(bare)
        bare.apply(resource())
        # From the moment at which there is something to probe.
        becomes(bare, "WorkloadReady", "Available", scene.PATIENCE_SECONDS)
        becomes(bare, "NetworkPolicyEnforced", "NotEnforced", 60)
        assert condition(bare, "IngressReady")["reason"] == "WaitingForEnforcement"
        assert not routed(bare)
        every = verdicts(told)
        assert "NotEnforced" in every
        assert "Enforced" not in every


def test_each_reason_of_walls_was_caused_here(walled: Node) -> None:
    """The last test of this file, of all that the ones before it have looked at."""
    missing = WALLS - scene.SEEN
    assert not missing
