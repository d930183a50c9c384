"""PodMonitors in a cluster that does not know them, and then does: the first file, before others bring the kind."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import binaries
from cluster.control_plane import ControlPlane
from laws import conditions, exists, reason, serve, wait_for
from support import Operator, eventually, published, smallest
from zimage_operator.children.podmonitor import pod_monitor
from zimage_operator.errors import MonitoringMissing
from zimage_operator.manifest import Environment
from zimage_operator.spec import parse

CPU = {"gpu": {"count": 0}}
SERVED, ABSENT = True, False
OFF = Environment("w:1", "zimage-system", pod_monitors=False)
ON = Environment(
    "w:1", "zimage-system", pod_monitor_labels=(("release", "prometheus"), ("app.kubernetes.io/name", "x"))
)


@pytest.mark.parametrize(
    ("asked", "environment", "served", "made"),
    [
        (None, ON, SERVED, True),
        (None, ON, ABSENT, False),
        (None, OFF, SERVED, False),
        (True, ON, ABSENT, True),
        (True, OFF, SERVED, True),
        (False, ON, SERVED, False),
    ],
)
def test_who_gets_one(asked: bool | None, environment: Environment, served: bool, made: bool) -> None:
    monitoring = {} if asked is None else {"podMonitor": asked}
    assert bool(pod_monitor(parse(smallest(monitoring=monitoring)), environment, served=served)) is made


def test_the_administrator_s_labels_are_there_and_ours_go_before() -> None:
    (item,) = pod_monitor(parse(smallest()), ON, served=True)
    found = item["metadata"]["labels"]
    assert (found["release"], found["app.kubernetes.io/name"]) == ("prometheus", "zimage")


def named(name: str, **spec: Any) -> dict[str, Any]:
    return smallest(ingress=published(f"{name}.absent.example.org"), **CPU, **spec)["spec"]


def scrapes(cluster: ControlPlane, namespace: str) -> set[str]:
    items = cluster.get("podmonitors", "-n", namespace)["items"]
    return {item["metadata"]["name"] for item in items}


@pytest.mark.control_plane
def test_what_is_asked_for_and_unknown_is_said_and_comes_with_the_kind_and_nobody_waits_for_it(
    operator: Operator, namespace: str, request: pytest.FixtureRequest
) -> None:
    cluster = operator.cluster
    crd = binaries.monitoring_crds()[0]
    assert not cluster.kubectl("get", "crd", "podmonitors.monitoring.coreos.com", "--ignore-not-found", "-o", "name")
    for name, more in {"asked": {"monitoring": {"podMonitor": True}}, "auto": {}}.items():
        cluster.apply({**smallest(name, namespace), "spec": named(name, **more)})
    # Both are published: who is not watched serves all the same.
    for name in ("asked", "auto"):
        wait_for(cluster, namespace, "Ready", name=name)
        assert reason(cluster, namespace, "IngressReady", name) == "Published"
    found = conditions(cluster, namespace, "asked")["MonitoringReady"]
    assert (found["status"], found["reason"]) == ("False", MonitoringMissing.reason)
    assert "install it: kubectl apply" in found["message"]
    assert "MonitoringReady" not in conditions(cluster, namespace, "auto")
    # Somebody installs the Prometheus operator.
    request.getfixturevalue("pod_monitors")
    for name in ("asked", "auto"):
        wait_for(cluster, namespace, "Applied", "MonitoringReady", name)
    assert scrapes(cluster, namespace) == {"asked", "auto"}
    cluster.apply({**smallest("auto", namespace), "spec": named("auto", monitoring={"podMonitor": False})})
    eventually(lambda: scrapes(cluster, namespace) == {"asked"}, "what is not wanted goes")
    # And takes it out again: with it everything of the kind goes, and what nobody asked for is not missed.
    cluster.apply({**smallest("auto", namespace), "spec": named("auto")})
    wait_for(cluster, namespace, "Applied", "MonitoringReady", "auto")
    cluster.kubectl("delete", "-f", crd, "--wait=true")
    wait_for(cluster, namespace, MonitoringMissing.reason, "MonitoringReady", "asked")
    eventually(lambda: "MonitoringReady" not in conditions(cluster, namespace, "auto"), "nothing is missed")
    cluster.kubectl("apply", "--server-side", "-f", crd)
    for name in ("asked", "auto"):
        wait_for(cluster, namespace, "Applied", "MonitoringReady", name)
        cluster.kubectl("-n", namespace, "delete", "zis", name)


@pytest.mark.control_plane
def test_a_taken_name_is_said_and_holds_up_nothing(operator: Operator, namespace: str, pod_monitors: None) -> None:
    cluster = operator.cluster
    head = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor"}
    body = {"metadata": {"name": "studio", "namespace": namespace}, "spec": {"selector": {}, "podMetricsEndpoints": []}}
    eventually(lambda: cluster.run([cluster.facts["kubectl"], "get", "podmonitors"], check=False).returncode == 0)
    cluster.apply({**head, **body})
    serve(cluster, namespace, ingress=published(f"{namespace}.example.org"), **CPU)
    wait_for(cluster, namespace, "NotOwned", "MonitoringReady")
    assert reason(cluster, namespace, "IngressReady") == "Published"
    cluster.kubectl("-n", namespace, "delete", "podmonitor", "studio")
    wait_for(cluster, namespace, "Applied", "MonitoringReady")
    # It stays while a service is suspended, and goes with it.
    assert exists(cluster, namespace, "podmonitor")
