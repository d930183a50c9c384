"""The lab, once a session; its tests are in its client's network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import packages
from standalone.lab import START_SECONDS, Lab, wait
from support import ROOT


def cannot(why: str) -> None:
    """Skip here, fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Four hosts with everything in force, and the worker ready."""
    if sys.platform != "linux" or os.geteuid() != 0:
        cannot("hosts of a test are namespaces: they need Linux and root")
    packages.ensure(("nginx", "nftables", "iproute2", "procps"))
    model = tmp_path_factory.mktemp("model") / "tiny"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "worker")}
    subprocess.run(
        [sys.executable, "-m", "zimage_worker", "tiny", model], env=environment, check=True, timeout=START_SECONDS
    )
    made = Lab(tmp_path_factory.mktemp("lab"), Path(model))
    try:
        made.up()
        wait(made.worker_ready, "the worker is ready", START_SECONDS)
        yield made
    finally:
        made.end()
