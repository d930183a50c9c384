"""The operator beside the real programs of others: a tier of its own, `make test-peers`.

The edge's tests run in a network namespace of their own, where pods can have addresses that a worker listens on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import binaries
from cluster.control_plane import ControlPlane
from cluster.programs import Programs
from standalone.places import Place
from support import Operator, install, tier_cannot_run
from worker.conftest import tiny_model

from .gitops import Repository, town

# The worker's own fixture.
__all__ = ["tiny_model"]

HERE = Path(__file__).parent
# Instead of pods' addresses. No way leads from there to anywhere else.
ADDRESSES = "10.77.0.0/24"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.peers)


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    """A host without a network but its own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        tier_cannot_run("the peers of the edge run in a network namespace: they need Linux and root")
    made = Place("peers")
    made.run("ip", "route", "add", "local", ADDRESSES, "dev", "lo")
    yield made
    made.end()


@pytest.fixture
def inside(place: Place) -> Iterator[Place]:
    """The test itself is there: its requests, and what it starts."""
    with place.inside():
        yield place


@pytest.fixture(scope="session")
def beside(place: Place) -> Iterator[ControlPlane]:
    """A control plane in the place, with our CRD and all that cert-manager and Envoy Gateway bring."""
    # All that comes over the network, while there is one.
    binaries.programs("control-plane")
    crds = (binaries.traefik_crds(), binaries.envoy_gateway_crds(), binaries.cert_manager_crds())
    cluster = ControlPlane()
    with place.inside():
        cluster.start()
        install(cluster, *crds)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def operator(place: Place, beside: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The running operator; it asks the workers what they loaded, as it does inside a cluster."""
    with place.inside():
        process = Operator(beside, tmp_path_factory.mktemp("operator"), ZIMAGE_OPERATOR_PROBE_INTERVAL_SECONDS="2")
        process.start_and_lead()
    yield process
    process.stop_in_order()
    log = process.log.read_text()
    assert "Traceback" not in log, log[-4000:]


@pytest.fixture(scope="session")
def programs(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """What is started beside the operator; it ends with the session."""
    made = Programs(tmp_path_factory.mktemp("programs"))
    yield made
    for process in made.running.values():
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """For the tools of Git, one for each of them, with the operator beside it."""
    with town(tmp_path_factory.mktemp("operator")) as running:
        yield running.cluster


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """What they sync."""
    return Repository(tmp_path_factory.mktemp("git") / "fleet")
