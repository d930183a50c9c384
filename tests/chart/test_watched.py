"""Alerts caused for real: a real Prometheus scrapes a real operator and a real worker, as the chart's PodMonitors say.

Shortened are the alerts' own patience (`for`) and the windows that they look at, to seconds; the rules are the chart's
own in all else. The worker's engine is the product's own fake one (its pictures come without torch, and in no time).
Alerts that are not caused here: a certificate's end and the policy that is not enforced, whose causes take a node; a
stale watch, which takes forty minutes; GPU memory, which takes a GPU; an API server that has enough. promtool judges
those in test_alerts.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import panels
from cluster.control_plane import ControlPlane
from laws import wait_for
from played import room
from releases import CHART, Helm, running
from support import ROOT, Operator, claim, eventually, smallest
from watching import Job, Prometheus, install, job, watching
from worker.conftest import SECRET_LINE, Worker

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

PLACE, HOME = "watched", "zimage-system"
CPU = {"gpu": {"count": 0}, "ingress": None, "auth": {"basic": {"generate": True}}}
WINDOW = "10s"
BOARDS = {path.stem: json.loads(path.read_text()) for path in (CHART / "files" / "dashboards").glob("*.json")}


def impatient(rules: str) -> str:
    """The chart's rules with windows of ten seconds, and no more patience than one."""
    return re.sub(r"\[\d+m\]", f"[{WINDOW}]", re.sub(r"(?m)^( +for:) .*$", r"\1 1s", rules))


@dataclass
class Scene:
    """What is watched, and who watches."""

    cluster: ControlPlane
    operator: Operator
    worker: Worker
    prometheus: Prometheus
    later: ExitStack = field(default_factory=ExitStack)


@pytest.fixture(scope="module")
def scene(
    control_plane: ControlPlane, untouched: None, offline: Helm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    install()
    folder = tmp_path_factory.mktemp("watched")
    helm = Helm(folder, control_plane)
    head = {"apiVersion": "v1", "kind": "Namespace"}
    control_plane.apply(*({**head, "metadata": {"name": name}} for name in (HOME, PLACE)))
    claim(control_plane, PLACE)
    worker = Worker(folder / "worker", folder, ZIMAGE_QUEUE_LENGTH="1")
    worker.command = [str(ROOT / "tests/worker/injected.py"), "fake"]
    # All that is looked at before the engine is loaded.
    (folder / "model_index.json").write_text("{}")
    worker.htpasswd.write_text(SECRET_LINE)
    worker.start()
    helm("install", "zimage-operator", CHART, "-n", HOME)
    (folder / "alerts.yaml").write_text(impatient((CHART / "files" / "alerts.yaml").read_text()))
    with ExitStack() as stack:
        stack.callback(worker.end)
        operator = stack.enter_context(running(control_plane, HOME, folder / "operator"))
        jobs = scraped(offline, {"zimage-operator": operator.port, "zimage-workers": worker.management_port})
        prometheus = stack.enter_context(watching(folder, jobs, folder / "alerts.yaml"))
        worker.ready()
        eventually(lambda: len(prometheus.ask("up == 1")) == 2, "both are scraped")
        yield Scene(control_plane, operator, worker, prometheus)
        control_plane.kubectl("-n", PLACE, "delete", "zis", "--all")
        helm("uninstall", "zimage-operator", "-n", HOME)
        control_plane.kubectl("delete", "namespace", PLACE, "--wait=false")


def scraped(helm: Helm, ports: dict[str, int]) -> list[Job]:
    """The chart's PodMonitors as plain jobs: the labels that Prometheus's operator adds, and whose labels win."""
    monitors = [item for item in helm.render({"monitoring.podMonitors": True}) if item["kind"] == "PodMonitor"]
    return [of_monitor(item, ports[item["metadata"]["name"]]) for item in monitors]


def of_monitor(item: dict[str, Any], port: int) -> Job:
    name, (endpoint,) = item["metadata"]["name"], item["spec"]["podMetricsEndpoints"]
    pods = {"app.kubernetes.io/name": "zimage", "app.kubernetes.io/instance": "studio"}
    place = HOME if name == "zimage-operator" else PLACE
    wanted = {re.sub(r"\W", "_", label): pods[label] for label in item["spec"].get("podTargetLabels", ())}
    labels = {"namespace": place, "pod": f"{name}-1", **wanted}
    return job(name, port, labels, honor_labels=endpoint.get("honorLabels", False))


# --- the causes


def a_service_that_cannot_run(scene: Scene) -> None:
    missing = {"persistentVolumeClaim": {"claimName": "missing"}}
    scene.cluster.apply(smallest(name="broken", namespace=PLACE, **CPU, model=missing))


def a_service_of_others_on_every_node(scene: Scene) -> None:
    scene.cluster.apply(smallest(namespace=PLACE, **CPU))
    wait_for(scene.cluster, PLACE, "Ready")
    spec = {"type": "NodePort", "selector": {"app.kubernetes.io/instance": "studio"}, "ports": [{"port": 7860}]}
    head = {"name": "hole", "namespace": PLACE}
    scene.cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": head, "spec": spec})


def a_download_that_does_not_move(scene: Scene) -> None:
    room(scene.cluster, PLACE, "fetching-model")
    hub = {"huggingFace": {"repo": "Tongyi-MAI/Z-Image-Turbo", "revision": "a" * 40}}
    scene.cluster.apply(smallest(name="fetching", namespace=PLACE, **CPU, model=hub))


def somebody_who_guesses(scene: Scene) -> None:
    """From many addresses at many names, and again and again from one at one, which is refused for that too."""
    for number in range(20):
        guesses = ((f"10.9.8.{number}", f"guest{number}"), ("10.9.9.9", "alice"))
        for address, user in guesses:
            who = {"auth": (user, f"guess{number}"), "headers": {"X-Forwarded-For": address}}
            assert scene.worker.api.get("/v1/models", **who).status_code in (401, 429)


def more_callers_than_one_worker_takes(scene: Scene) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(lambda _: scene.worker.generate({"steps": 100}).status_code, range(6))
        assert 429 in set(answers)


CAUSES: dict[str, Callable[[Scene], None]] = {
    "ZImageServiceNotReady": a_service_that_cannot_run,
    "ZImageExposed": a_service_of_others_on_every_node,
    "ZImageDownloadStuck": a_download_that_does_not_move,
    "ZImageAuthFailuresRising": somebody_who_guesses,
    "ZImageQueueFull": more_callers_than_one_worker_takes,
}
# Whom an alert is about: the service, also where the operator is the one that tells.
ABOUT = {"ZImageServiceNotReady": "broken", "ZImageExposed": "studio", "ZImageDownloadStuck": "fetching"}


def test_nothing_fires_while_nothing_is_wrong(scene: Scene) -> None:
    eventually(lambda: scene.prometheus.ask("zimage_operator_leader == 1"), "the leader is seen")
    eventually(lambda: not scene.prometheus.firing(), "silence")


def goes_on(scene: Scene, alert: str) -> list[dict[str, str]]:
    """Cause it once more, and see: one burst between two scrapes is no rate."""
    CAUSES[alert](scene)
    return scene.prometheus.firing().get(alert, [])


@pytest.mark.parametrize("alert", CAUSES)
def test_what_an_alert_is_for_makes_it_fire(scene: Scene, alert: str) -> None:
    assert alert not in scene.prometheus.firing()
    labels = eventually(lambda: goes_on(scene, alert), f"{alert} fires")
    if alert in ABOUT:
        assert {one["namespace"] for one in labels} == {PLACE}
        assert ABOUT[alert] in {one["name"] for one in labels}


# What nothing here can show: the operator asks no pod outside a node. (Without a GPU its memory is 0.)
WITHOUT_DATA = {
    "Certificate ends in",
    "Probes of pods by what they found",
}


def asked(panel: dict[str, Any]) -> str:
    (target,) = panel["targets"]
    query: str = target["expr"]
    return query.replace("$__rate_interval", WINDOW).replace("$namespace", ".*")


def silent_panels(scene: Scene) -> set[str]:
    """Those whose query gives nothing now; a picture and refusals keep the rates going."""
    scene.worker.generate()
    somebody_who_guesses(scene)
    boards = (board["panels"] for board in BOARDS.values())
    return {panel["title"] for board in boards for panel in board if not scene.prometheus.ask(asked(panel))}


def test_every_panel_of_both_dashboards_shows_what_happened(scene: Scene) -> None:
    # A hand edit, which is put right.
    scene.cluster.kubectl("-n", PLACE, "label", "cm", "studio", "app.kubernetes.io/part-of=x", "--overwrite")
    last: list[set[str]] = [set()]
    with contextlib.suppress(AssertionError):
        eventually(lambda: last.append(silent_panels(scene)) or last[-1] == WITHOUT_DATA)
    assert last[-1] == WITHOUT_DATA
    if target := os.environ.get("DASHBOARD_PICTURE"):
        draw(scene, Path(target).absolute())


def draw(scene: Scene, target: Path) -> None:
    """A picture of the services' dashboard, after a load of 40 seconds (docs/images)."""
    until = time.monotonic() + 40
    while time.monotonic() < until:
        scene.worker.generate({"steps": 60, "size": random.choice(("64x64", "128x128"))})
        if int(time.monotonic()) % 10 == 0:
            more_callers_than_one_worker_takes(scene)
            somebody_who_guesses(scene)
    panels.picture(scene.prometheus, BOARDS["services"], WINDOW, 90, target)


def test_it_is_silent_again_when_the_cause_has_gone(scene: Scene) -> None:
    scene.cluster.kubectl("-n", PLACE, "delete", "service", "hole")
    scene.cluster.kubectl("-n", PLACE, "delete", "zis", "broken", "fetching")
    eventually(lambda: not scene.prometheus.firing(), "silence")


def test_without_a_leader_somebody_is_told(scene: Scene) -> None:
    """Last: the operator is stopped, and nothing but Prometheus is left to tell."""
    assert scene.operator.stop() == 0
    eventually(lambda: scene.prometheus.firing().get("ZImageOperatorWithoutLeader"), "it fires")
