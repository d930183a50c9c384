"""The chart on the real node: the operator's own image, behind its own NetworkPolicy, under Calico."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import images
from cluster.helm import helm
from cluster.node import Node
from demo.scene import namespace, probe
from releases import CHART, told
from support import eventually

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

HOME = "zimage-system"
OPERATORS = "app.kubernetes.io/name=zimage-operator"


@pytest.fixture(scope="module")
def small(node_tier: None) -> Iterator[Node]:
    """A node without the worker's image: `helm test` needs none."""
    node = Node([images.operator_image(), images.probe_image()])
    node.start()
    yield node
    node.stop()


def opens(node: Node, place: str, address: str) -> bool:
    """Whether a pod of a namespace opens a connection to the operator's port."""
    command = ["timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{address}/8080"]
    answer = node.run(["kubectl", "-n", place, "exec", "probe", "--", *command], check=False)
    return answer.returncode == 0


def test_it_installs_passes_its_own_test_and_shows_its_metrics_to_monitoring_alone(small: Node, tmp_path: Path) -> None:
    """Ready means: the kubelet's probes get in, and the operator gets out to the API server."""
    homes = {f"HELM_{name}_HOME": str(tmp_path / name) for name in ("CACHE", "CONFIG", "DATA")}
    small.apply(*(namespace(name) for name in (HOME, "monitoring", "elsewhere")))
    small.apply(*(probe(name) for name in ("monitoring", "elsewhere")))
    values = {"image.repository": "localhost/zimage-operator", "image.tag": "test"}
    wait = ["--wait", "--timeout", "180s"]
    small.run([helm(), "install", "zimage-operator", CHART, "-n", HOME, *wait, *told(values)], env=homes)
    said = small.run([helm(), "test", "zimage-operator", "-n", HOME, "--timeout", "180s"], env=homes).stdout
    assert "Succeeded" in said
    small.kubectl("-n", "monitoring", "wait", "--for=condition=Ready", "pod/probe", "--timeout=120s")
    small.kubectl("-n", "elsewhere", "wait", "--for=condition=Ready", "pod/probe", "--timeout=120s")
    pod = small.get("pods", "-n", HOME, "-l", OPERATORS)["items"][0]
    address = pod["status"]["podIP"]
    # The open door first: only then does a closed one say anything.
    eventually(lambda: opens(small, "monitoring", address), "monitoring gets in")
    assert not opens(small, "elsewhere", address)
