"""The clusters that tests ask for by name: `control_plane`, `node`, `edge`, once a session each."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings

from cluster import binaries, images, packages
from cluster.control_plane import ControlPlane
from cluster.edge import traefik_up
from cluster.node import Node
from support import tier_cannot_run

# A noisy machine is no failure: an example that took long, or slow data, says nothing about the code.
settings.register_profile("noisy", parent=settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("noisy")


# A cold start builds programs and images for half an hour: the time limit is for the test.
TIERS = {"control_plane", "node_tier"}
TEST_SECONDS = 300


def pytest_itemcollected(item: pytest.Item) -> None:
    if TIERS & set(getattr(item, "fixturenames", ())):
        own = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout(own.args[0] if own else TEST_SECONDS, func_only=True))


@contextmanager
def told(request: pytest.FixtureRequest, what: str) -> Iterator[None]:
    """Say what is set up and how long it takes: a silent build of ten minutes looks like a hang."""
    manager = request.config.pluginmanager.getplugin("capturemanager")
    with manager.global_and_fixture_disabled():
        began = time.monotonic()
        # Standard error: a lane's standard output waits for the end of its line.
        print(f"\nsetting up {what} …", file=sys.stderr, flush=True)
        yield
        print(f"{what}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A real control plane with a fake node (1 GPU), on loopback, without root."""
    if sys.platform != "linux":
        tier_cannot_run("the control plane needs Linux: its keeper uses prctl and /proc")
    cluster = ControlPlane()
    with told(request, "the control plane"):
        cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def node_tier(request: pytest.FixtureRequest) -> None:
    """All that real nodes stand on: root, Debian's packages, the programs."""
    if why := packages.cannot_run():
        tier_cannot_run(why)
    with told(request, "the programs of the node"):
        packages.ensure((*packages.NODE, *packages.IMAGES))
        binaries.programs("node")


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest, node_tier: None) -> Iterator[Node]:
    """The real node: 1 GPU, Calico, our own images, Traefik's and the probe's."""
    ours = [images.operator_image(), images.worker_image()]
    cluster = Node([*ours, images.traefik_image(), images.probe_image()])
    with told(request, "the node"):
        cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def edge(node: Node) -> Node:
    """The node with Traefik in `dmz`, which serves https://*.example.org."""
    traefik_up(node)
    return node
