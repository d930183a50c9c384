"""An API server that is killed and comes back, again and again: nothing is missed, and the operator goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import binaries
from cluster.control_plane import ControlPlane
from support import Operator, claim, eventually, install, published, smallest

pytestmark = pytest.mark.control_plane

RESTARTS = 3
SERVICES = 3


def service(number: int, client: str) -> dict:
    more = {"gpu": {"count": 0}, "ingress": published(f"r{number}.example.org")}
    return smallest(f"r{number}", "default", network={"allowedNamespaces": ["dmz", client]}, **more)


def policies(cluster: ControlPlane) -> dict[str, str]:
    return {item["metadata"]["name"]: str(item["spec"]) for item in cluster.get("netpol", "-n", "default")["items"]}


@pytest.mark.timeout(600)
def test_an_api_server_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    # A control plane of its own: the streams of all other tests would break with it.
    with ControlPlane() as cluster:
        install(cluster, binaries.traefik_crds())
        claim(cluster, "default")
        # Without a Lease: where the server takes more than ten seconds to come back, it ends for want of it.
        operator = Operator(cluster, tmp_path, ZIMAGE_OPERATOR_LEADER_ELECTION="false")
        operator.start()
        assert operator.process
        try:
            for round_ in range(RESTARTS):
                cluster.restart_api_server()
                # Before the operator is back: its streams are still dead.
                cluster.apply(*(service(number, f"client-{round_}") for number in range(SERVICES)))
                if round_ == 1:
                    cluster.kubectl("delete", "netpol", "r0")
                eventually(
                    lambda round_=round_: all(  # type: ignore[misc]
                        f"client-{round_}" in policies(cluster).get(f"r{number}", "") for number in range(SERVICES)
                    ),
                    "every policy admits the new client",
                )
                assert operator.process.poll() is None, operator.log.read_text()[-4000:]
        finally:
            operator.process.terminate()
            operator.process.wait(60)
    log = operator.log.read_text()
    assert "Traceback" not in log, log[-4000:]
