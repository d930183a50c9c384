"""The real node proves itself: what it claims to enforce it enforces, and it leaves nothing."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from cluster import images, leftovers
from cluster.edge import traefik_up
from cluster.keeper import RUNS
from cluster.node import Node
from cluster.test_control_plane import DOWN_SECONDS, UP_SECONDS, own
from support import eventually

pytestmark = pytest.mark.node

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def namespace(name: str) -> dict:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def pod(namespace: str, name: str, *command: str, gpus: int = 0) -> dict:
    container = {
        "name": "c",
        "image": images.probe_image().name,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command) or ["sleep", "infinity"],
        "securityContext": RESTRICTED,
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }


POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "server", "namespace": "inner"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "server"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "dmz"}}}]}],
        "egress": [],
    },
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "server", "namespace": "inner"},
    "spec": {"selector": {"app": "server"}, "ports": [{"port": 7860}]},
}


def inhabit(node: Node) -> None:
    """A server in `inner` behind a policy, somebody in `dmz`, and somebody elsewhere."""
    node.apply(*(namespace(name) for name in ("inner", "dmz", "other")))
    node.apply(
        POLICY,
        SERVICE,
        pod("inner", "server", "python3", "-m", "http.server", "7860"),
        pod("dmz", "probe"),
        pod("other", "probe"),
    )
    for place in ("inner", "dmz", "other"):
        node.kubectl("-n", place, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")


def reaches(node: Node, place: str, url: str = "http://server.inner.svc.cluster.local:7860/") -> bool:
    pod = "server" if place == "inner" else "probe"
    inside = ["curl", "-s", "-o", "/dev/null", "-m", "2", url]
    command = [node.facts["kubectl"], "-n", place, "exec", pod, "--", *inside]
    return node.run(command, check=False).returncode == 0


@pytest.fixture(scope="module")
def small_node(node_tier: None) -> Iterator[Node]:
    """A node of this module's own: it needs neither of our images."""
    with Node([images.probe_image(), images.traefik_image()]) as node:
        inhabit(node)
        yield node


def test_a_policy_is_enforced(small_node: Node) -> None:
    assert eventually(lambda: reaches(small_node, "dmz"))
    assert eventually(lambda: not reaches(small_node, "other"))
    # The way is open but for the policy: "blocked" is not just a broken network.
    small_node.kubectl("-n", "inner", "delete", "networkpolicy", "server")
    assert eventually(lambda: reaches(small_node, "other"))
    small_node.apply(POLICY)
    assert eventually(lambda: not reaches(small_node, "other"))
    assert eventually(lambda: reaches(small_node, "dmz"))


def test_egress_is_closed_even_for_dns(small_node: Node) -> None:
    assert not reaches(small_node, "inner", "http://probe/")
    lookup = "import socket; socket.gethostbyname('server.inner.svc.cluster.local')"
    exec_in = [small_node.facts["kubectl"], "exec", "-n"]
    ask = ["--", "timeout", "5", "python3", "-c", lookup]
    assert small_node.run([*exec_in, "inner", "server", *ask], check=False).returncode != 0
    assert small_node.run([*exec_in, "other", "probe", *ask]).returncode == 0


def test_names_of_the_cluster_resolve_and_the_outside_does_not_exist(small_node: Node) -> None:
    resolve = ["getent", "hosts"]
    assert "10.96.0.1" in small_node.run([*resolve, "kubernetes.default.svc.cluster.local"]).stdout
    assert "10.96.0.80" in small_node.run([*resolve, "img.example.org"]).stdout
    assert small_node.run([*resolve, "www.example.com"], check=False).returncode != 0


def test_no_packet_leaves(small_node: Node) -> None:
    # Straight at an address, past DNS: of the reserved documentation network, in case it did leave.
    command = ["bash", "-c", "timeout 4 bash -c 'exec 3<>/dev/tcp/192.0.2.1/80'"]
    assert small_node.run(command, check=False).returncode != 0
    names = {line.split()[1].rstrip(":").partition("@")[0] for line in links(small_node)}
    assert {name for name in names if not name.startswith("cali")} == {"lo", "node0", "up0", "up1"}


def links(node: Node) -> list[str]:
    return node.run(["ip", "-oneline", "link"]).stdout.splitlines()


def test_the_gpu_is_exclusive(small_node: Node) -> None:
    small_node.apply(pod("other", "first", gpus=1), pod("other", "second", gpus=1))

    def phases() -> dict[str, str]:
        items = small_node.get("pods", "-n", "other")["items"]
        return {item["metadata"]["name"]: item["status"]["phase"] for item in items}

    running = eventually(lambda: [n for n in ("first", "second") if phases()[n] == "Running"])[0]
    waiting = "second" if running == "first" else "first"
    assert phases()[waiting] == "Pending"
    seen = small_node.kubectl("-n", "other", "exec", running, "--", "printenv", "NVIDIA_VISIBLE_DEVICES")
    assert seen.strip() == "GPU-fake-0"
    small_node.kubectl("-n", "other", "delete", "pod", running)
    assert eventually(lambda: phases()[waiting] == "Running")
    small_node.kubectl("-n", "other", "delete", "pod", waiting)


def test_an_unrestricted_pod_is_refused(small_node: Node) -> None:
    with pytest.raises(Exception, match="violates PodSecurity"):
        small_node.kubectl("run", "open", f"--image={images.probe_image().name}")


def test_traefik_serves_tls_and_redirects_plain_http(small_node: Node) -> None:
    traefik_up(small_node)
    small_node.apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "server", "namespace": "inner"},
            "spec": {
                "ingressClassName": "traefik",
                "rules": [
                    {
                        "host": "img.example.org",
                        "http": {
                            "paths": [
                                {
                                    "path": "/",
                                    "pathType": "Prefix",
                                    "backend": {"service": {"name": "server", "port": {"number": 7860}}},
                                }
                            ]
                        },
                    }
                ],
            },
        }
    )

    def code(url: str, what: str = "%{http_code}") -> str:
        return small_node.run(["curl", "-sk", "-o", "/dev/null", "-m", "30", "-w", what, url], check=False).stdout

    # From Traefik's pod in dmz to the server behind the policy.
    assert eventually(lambda: code("https://img.example.org/") == "200")
    assert code("https://other.example.org/") == "404"
    redirect = code("http://img.example.org/a?b=c", "%{http_code} %{redirect_url}")
    assert redirect == "301 https://img.example.org/a?b=c"
    # Its own rights suffice, for reading and for the Ingress's status.
    status = ["-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"]
    assert eventually(lambda: small_node.kubectl("-n", "inner", "get", "ingress", "server", *status))
    refused = [
        event["requestURI"]
        for event in small_node.audit()
        if event["user"]["username"] == "system:serviceaccount:dmz:traefik" and event["responseStatus"]["code"] == 403
    ]
    assert refused == []


def test_a_second_node_without_an_engine_enforces_nothing_and_both_leave_nothing(small_node: Node) -> None:
    before = leftovers.machine()
    began = time.monotonic()
    with Node([images.probe_image()], gpus=2, policy="none") as other:
        assert time.monotonic() - began < UP_SECONDS
        inhabit(other)
        # The policy stands there, and nobody heeds it.
        assert eventually(lambda: reaches(other, "other"))
        assert not reaches(small_node, "other")
        assert other.get("node", "node-1")["status"]["allocatable"]["nvidia.com/gpu"] == "2"
        began = time.monotonic()
    assert time.monotonic() - began < DOWN_SECONDS
    assert leftovers.wait_until_none(other.directory, 1) == []
    assert leftovers.machine() == before
    # The other one did not notice.
    assert eventually(lambda: reaches(small_node, "dmz"))


OWNER = """
import sys, time
from pathlib import Path
from cluster import images
from cluster.node import Node
Node([images.probe_image()], directory=Path(sys.argv[1])).start()
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("seconds", [1.5, 5.0, None], ids=["early", "in the middle", "when up"])
def test_an_owner_that_is_killed_leaves_nothing(small_node: Node, seconds: float | None) -> None:
    before = leftovers.machine()
    directory = RUNS / f"killed-{os.getpid()}-{seconds}"
    owner = own(OWNER, directory)
    assert owner.stdout
    if seconds is None:
        assert owner.stdout.readline() == "up\n"
        assert leftovers.traces(directory)
    else:
        eventually(lambda: leftovers.traces(directory), "it has begun")
        time.sleep(seconds)
        assert owner.poll() is None
    owner.kill()
    owner.wait()
    assert leftovers.wait_until_none(directory, DOWN_SECONDS) == []
    assert leftovers.machine() == before


def test_what_runs_inside_ends_with_its_nsenter(small_node: Node) -> None:
    sleeper = subprocess.Popen(small_node.inside(["sleep", "31415"]))
    sleeping = ["pgrep", "-f", "^sleep 31415"]
    eventually(lambda: small_node.run(sleeping, check=False).returncode == 0)
    sleeper.kill()
    sleeper.wait()
    eventually(lambda: small_node.run(sleeping, check=False).returncode != 0)
