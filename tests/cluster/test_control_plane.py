"""The control plane proves itself: it works, and it leaves nothing, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import keeper, leftovers
from cluster.control_plane import ControlPlane
from cluster.keeper import ROOT, RUNS
from support import eventually

pytestmark = pytest.mark.control_plane

# Measured alone: 5 s up, 1 s down. Far more here: whoever else uses the two cores is no fault of the harness.
UP_SECONDS = 120
DOWN_SECONDS = 60


def deployment(name: str, annotations: dict[str, str] | None = None, gpus: int = 0) -> dict:
    labels = {"app": name}
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    container = {"name": "c", "image": "nothing:1", "resources": {"limits": limits}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations or {}},
                "spec": {"containers": [container]},
            },
        },
    }


def pods(control_plane: ControlPlane, name: str) -> list[dict]:
    return control_plane.get("pods", "-n", "default", "-l", f"app={name}")["items"]


def test_a_pod_of_a_deployment_runs_on_the_fake_node(control_plane: ControlPlane) -> None:
    control_plane.apply(deployment("runs"))
    control_plane.kubectl("wait", "--for=condition=Available", "deployment/runs", "--timeout=60s")
    address = pods(control_plane, "runs")[0]["status"]["podIP"]
    # Reserved for benchmarks, routed nowhere.
    assert address.startswith(("198.18.", "198.19."))
    control_plane.kubectl("delete", "deployment", "runs")
    eventually(lambda: not pods(control_plane, "runs"))


def test_a_pod_behaves_as_its_annotations_ask(control_plane: ControlPlane) -> None:
    control_plane.apply(
        deployment("unready", {"fakenode/ready": "false"}),
        deployment("unpullable", {"fakenode/waiting": "ImagePullBackOff"}),
        deployment("crashing", {"fakenode/exit": "1"}),
    )

    def container(name: str) -> dict:
        # Nothing is reported before the pod has been scheduled and its delay has passed.
        found = pods(control_plane, name)
        return found[0]["status"].get("containerStatuses", [{}])[0] if found else {}

    assert not eventually(lambda: container("unready"))["ready"]
    assert eventually(lambda: container("unpullable"))["state"]["waiting"]["reason"] == "ImagePullBackOff"
    crashed = eventually(lambda: container("crashing"))
    assert crashed["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert crashed["lastState"]["terminated"]["exitCode"] == 1
    control_plane.kubectl("delete", "deployment", "unready", "unpullable", "crashing")


def test_the_gpu_of_the_fake_node_is_exclusive(control_plane: ControlPlane) -> None:
    control_plane.apply(deployment("one", gpus=1))
    control_plane.kubectl("wait", "--for=condition=Available", "deployment/one", "--timeout=60s")
    control_plane.apply(deployment("two", gpus=1))

    def refusal() -> str:
        conditions = [c for pod in pods(control_plane, "two") for c in pod["status"].get("conditions", [])]
        return "".join(c.get("message", "") for c in conditions)

    assert "Insufficient nvidia.com/gpu" in eventually(refusal)
    control_plane.kubectl("delete", "deployment", "one")
    control_plane.kubectl("wait", "--for=condition=Available", "deployment/two", "--timeout=60s")
    control_plane.kubectl("delete", "deployment", "two")


def test_the_audit_log_shows_what_a_service_account_asks_for(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "serviceaccount", "watched", "-n", "default")
    control_plane.kubectl("create", "rolebinding", "watched", "--clusterrole=view", "--serviceaccount=default:watched")
    kubeconfig = control_plane.kubeconfig_for("default", "watched")
    # The authorizer hears of a binding a moment after it was made.
    may = [control_plane.facts["kubectl"], "auth", "can-i", "list", "configmaps", "-n", "default"]
    may.append("--as=system:serviceaccount:default:watched")
    eventually(lambda: control_plane.run(may, check=False).stdout.strip() == "yes", "it may list ConfigMaps")
    control_plane.kubectl("--kubeconfig", kubeconfig, "-n", "default", "get", "configmaps")
    with pytest.raises(Exception, match="forbidden"):
        control_plane.kubectl("--kubeconfig", kubeconfig, "-n", "default", "get", "secrets")
    asked = {
        (event["verb"], event["objectRef"]["resource"], event["responseStatus"]["code"])
        for event in control_plane.audit()
        if event["user"]["username"] == "system:serviceaccount:default:watched" and "objectRef" in event
    }
    assert asked == {("list", "configmaps", 200), ("list", "secrets", 403)}


def test_streaming_lists_are_served(control_plane: ControlPlane) -> None:
    # Older etcds cannot, and clients then fall back in silence.
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    lines = control_plane.kubectl("get", "--raw", f"/api/v1/namespaces?{query}&timeoutSeconds=1").splitlines()
    assert {json.loads(line)["type"] for line in lines} == {"ADDED", "BOOKMARK"}


def test_two_run_side_by_side_and_leave_nothing() -> None:
    before = leftovers.machine()
    began = time.monotonic()
    with ControlPlane() as one, ControlPlane(gpus=None, pod_security="restricted") as two:
        assert time.monotonic() - began < 2 * UP_SECONDS
        assert one.server != two.server
        assert len(one.get("nodes")["items"]) == 1
        assert two.get("nodes")["items"] == []
        with pytest.raises(Exception, match="violates PodSecurity"):
            two.kubectl("run", "open", "--image=nothing:1")
        one.kubectl("run", "open", "--image=nothing:1")
        assert leftovers.traces(one.directory)
        began = time.monotonic()
    assert time.monotonic() - began < 2 * DOWN_SECONDS
    assert leftovers.traces(one.directory) + leftovers.traces(two.directory) == []
    assert leftovers.machine() == before


OWNER = """
import sys, time
from pathlib import Path
from cluster.control_plane import ControlPlane
ControlPlane(Path(sys.argv[1])).start()
print("up", flush=True)
time.sleep(600)
"""


def own(script: str, directory: Path) -> subprocess.Popen:
    """A process that owns a cluster, to be killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-c", script, str(directory)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("seconds", [0.3, 1.5, None], ids=["at once", "in the middle", "when up"])
def test_an_owner_that_is_killed_leaves_nothing(seconds: float | None) -> None:
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


def test_a_keeper_that_is_killed_takes_its_programs_along() -> None:
    control_plane = ControlPlane().start()
    pid = keeper.alive(control_plane.directory)
    assert pid
    os.kill(pid, signal.SIGKILL)

    # The files stay until the next end() or sweep(); the processes may not.
    def processes() -> list[str]:
        return [trace for trace in leftovers.traces(control_plane.directory) if trace.startswith("process")]

    eventually(lambda: not processes(), "its programs are gone")
    control_plane.stop()
    assert leftovers.traces(control_plane.directory) == []


def test_the_command_line_starts_and_ends_one_that_stays() -> None:
    directory = RUNS / f"stays-{os.getpid()}"
    # -S: without site-packages, as the system's own Python is without our libraries.
    module, bare = ["-m", "tests.cluster"], [sys.executable, "-I", "-S"]
    up = subprocess.run(
        [sys.executable, *module, "control-plane-up", directory],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"export KUBECONFIG={directory}/admin.kubeconfig" in up.stdout
    again = subprocess.run(
        [sys.executable, *module, "control-plane-up", directory],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert "runs in" in again.stderr
    start = "import sys, runpy; sys.path[:0] = ['.']; runpy.run_module('tests.cluster', run_name='__main__')"
    subprocess.run([*bare, "-c", start, "control-plane-down", directory], cwd=ROOT, check=True)
    assert leftovers.traces(directory) == []


def test_a_program_that_fails_is_named_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ControlPlane()
    options = broken.options()
    options["programs"]["kube-apiserver"] = "/bin/false"
    monkeypatch.setattr(broken, "options", lambda: options)
    with pytest.raises(keeper.ClusterFailed, match="kube-apiserver ended with 1"):
        broken.start()
    assert leftovers.traces(broken.directory) == []
