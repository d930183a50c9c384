"""A control plane with our CRD and rights, the running operator, a namespace of each test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster import binaries
from cluster.control_plane import ControlPlane
from recorder import Recorder
from support import ROOT, Operator, claim, eventually, in_force, install, mutation, published, smallest


@pytest.fixture(scope="session")
def installed(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with our CRD, Traefik's CRDs, the class, and the operator's rights."""
    others = (binaries.traefik_crds(), binaries.gateway_crds(), binaries.envoy_crds(), binaries.certificate_crd())
    install(control_plane, *others, ROOT / "tests" / "operator" / "f5-policy-crd.yaml")
    return control_plane


@pytest.fixture(scope="session")
def pod_monitors(installed: ControlPlane) -> None:
    """The cluster knows PodMonitors from now on: it does not from the start (test_absent_kinds.py)."""
    installed.kubectl("apply", "--server-side", "-f", binaries.monitoring_crds()[0])


@pytest.fixture(scope="session")
def statuses(installed: ControlPlane) -> Recorder:
    """Every version of every resource since the operator began: test_whole_run.py judges them all."""
    return Recorder(installed, "/apis/zimage.dev/v1alpha1/zimageservices")


@pytest.fixture(scope="session")
def operator(
    installed: ControlPlane, statuses: Recorder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """The running operator. Probes are off outside a cluster, and every status says so."""
    process = Operator(installed, tmp_path_factory.mktemp("operator"))
    process.start()
    yield process
    process.stop_in_order()
    log = process.log.read_text()
    assert "Traceback" not in log, log[-4000:]


@pytest.fixture
def namespace(installed: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, under PodSecurity `restricted`, with a bound claim for the model."""
    name = f"t-{abs(hash(request.node.nodeid)) % 10**8}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    installed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    claim(installed, name)
    eventually(lambda: "default" in installed.kubectl("-n", name, "get", "serviceaccounts", "-o", "name"))
    yield name
    # First what is in it: left to itself, a namespace takes five seconds to come to its pods. (The garbage collector
    # may take forty for a CRD that is new to it.) The next test needs the one GPU: a pod that stays would fail all
    # that follow, and none of them by its own fault.
    installed.kubectl("-n", name, "delete", "zis", "--all")
    installed.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
    eventually(lambda: not installed.get("pods", "-n", name)["items"], f"no pod is left in {name}")


@pytest.fixture(scope="session")
def slow(operator: Operator) -> str:
    """The namespace of a service whose worker never gets ready: started early, its deadline is seen at the end."""
    cluster, name = operator.cluster, "t-slow"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    claim(cluster, name)
    never = '[JSONPatch{op: "add", path: "/metadata/annotations/fakenode~1ready", value: "false"}]'
    cluster.apply(*mutation("never-ready", name, ("", "v1", "pods"), never))
    in_force(cluster, name, "fakenode/ready")
    rollout = {"progressDeadlineSeconds": 60}
    cluster.apply(smallest(namespace=name, rollout=rollout, gpu={"count": 0}, ingress=published("slow.example.org")))
    return name
