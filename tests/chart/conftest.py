"""Helm, built once, and a control plane that has never heard of us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from conftest import told
from releases import Helm


@pytest.fixture(scope="session")
def offline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster: `lint` and `template`."""
    with told(request, "helm"):
        return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """Its own: what a chart installs is the whole cluster's, and other tests have installed it by hand."""
    cluster = ControlPlane()
    with told(request, "a control plane for the chart"):
        cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def helm(offline: Helm, control_plane: ControlPlane, tmp_path: Path) -> Helm:
    """Helm as the cluster's administrator."""
    return Helm(tmp_path, control_plane)


@pytest.fixture(scope="module")
def untouched(control_plane: ControlPlane) -> None:
    """As a cluster that has never heard of us: the CRD that a former release has left belongs to that release."""
    control_plane.kubectl("delete", "crd", "zimageservices.zimage.dev", "--ignore-not-found", "--timeout=60s")
