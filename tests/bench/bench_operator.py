"""The operator's figures, on the real API server with the fake node: `make bench-operator`.

Times come from the API server's audit log, so that no client's own delay is in them.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from cluster import binaries
from cluster.control_plane import ControlPlane
from support import CLASS, ROOT, Operator, claim, eventually, smallest

REPAIRS = 20
REST_SECONDS = 60
NAMESPACE = "bench"
HOLE = [{"op": "add", "path": "/spec/ingress/0/from/-", "value": {"namespaceSelector": {}}}]


def main() -> int:
    """Measure everything once; exit code 1 where a goal is missed."""
    with ControlPlane() as cluster, running(cluster) as operator:
        rows = [
            ("apply → Ready (fake node)", f"{apply_to_ready(cluster):.2f} s", "", True),
            repairs(cluster),
            restart(operator),
            rest(operator),
        ]
    print(f"{'figure':40} {'measured':34} {'goal':24}")
    for name, measured, goal, met in rows:
        print(f"{name:40} {measured:34} {goal:24} {'' if met else 'MISSED'}")
    return 0 if all(met for *_, met in rows) else 1


Row = tuple[str, str, str, bool]


@contextmanager
def running(cluster: ControlPlane) -> Iterator[Operator]:
    """Our CRD, Traefik's, the rights, a namespace with a volume, and the operator."""
    cluster.kubectl("apply", "--server-side", "-f", ROOT / "crds")
    cluster.kubectl("apply", "--server-side", "-f", binaries.traefik_crds())
    documents = yaml.safe_load_all((ROOT / "operator" / "install.yaml").read_text())
    cluster.apply(CLASS, *(item for item in documents if item["kind"] != "Deployment"))
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    claim(cluster, NAMESPACE)
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(cluster, Path(folder))
        operator.start()
        eventually(lambda: "leading as" in operator.log.read_text(), "the operator leads")
        yield operator
        operator.stop()


def apply_to_ready(cluster: ControlPlane) -> float:
    """Seconds from the apply of the smallest resource to Ready=True, as kubectl sees both."""
    cluster.apply(smallest(namespace=NAMESPACE))
    began = time.monotonic()
    cluster.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "zis/studio", "--timeout=60s")
    return time.monotonic() - began


def repairs(cluster: ControlPlane) -> Row:
    """The NetworkPolicy widened by hand, twenty times: from that write to ours."""
    for number in range(REPAIRS):
        patch = ("--type=json", f"--field-manager=mallory-{number}", "-p", json.dumps(HOLE))
        cluster.kubectl("-n", NAMESPACE, "patch", "netpol", "studio", *patch)
        eventually(lambda: doors(cluster) == 1, "the policy is narrow again")
    writes = [entry for entry in cluster.audit() if about_policy(entry)]
    pairs = itertools.pairwise(writes)
    seconds = [at(ours) - at(theirs) for theirs, ours in pairs if by_hand(theirs) and not by_hand(ours)]
    p95 = statistics.quantiles(seconds, n=20)[-1]
    measured = f"p50 {statistics.median(seconds):.3f} s, p95 {p95:.3f} s of {len(seconds)}"
    return "hand edit → repaired", measured, "p95 < 1 s", len(seconds) == REPAIRS and p95 < 1


def doors(cluster: ControlPlane) -> int:
    return len(cluster.get("netpol", "studio", "-n", NAMESPACE)["spec"]["ingress"][0]["from"])


def about_policy(entry: dict[str, Any]) -> bool:
    target = entry.get("objectRef", {})
    return entry["verb"] == "patch" and (target.get("resource"), target.get("namespace")) == (
        "networkpolicies",
        NAMESPACE,
    )


def by_hand(entry: dict[str, Any]) -> bool:
    return not entry["user"]["username"].startswith("system:serviceaccount:")


def at(entry: dict[str, Any]) -> float:
    """When the API server had answered, in seconds."""
    return datetime.fromisoformat(entry["stageTimestamp"]).timestamp()


def restart(operator: Operator) -> Row:
    """Ended and started again with nothing changed."""
    settle(operator)
    before = len(operator.writes())
    operator.stop()
    operator.start()
    eventually(lambda: operator.log.read_text().count("leading as") == 2, "the new one leads")
    settle(operator)
    writes = len(operator.writes()) - before
    return "writes after a restart", str(writes), "0", writes == 0


def settle(operator: Operator) -> None:
    """Wait until the operator asks for nothing but its Lease for five seconds."""

    def still() -> bool:
        count = len(others(operator))
        time.sleep(5)
        return len(others(operator)) == count

    eventually(still, "nothing more happens", 120)


def others(operator: Operator) -> list[dict[str, Any]]:
    aside = {"leases", "events"}
    return [entry for entry in operator.requests() if resource(entry) not in aside]


def resource(entry: dict[str, Any]) -> str:
    """What a request is about: discovery has no object, only a path."""
    return str(entry.get("objectRef", {}).get("resource", entry["requestURI"]))


def rest(operator: Operator) -> Row:
    """A minute without a change: what is asked of the API server."""
    count = len(operator.requests())
    time.sleep(REST_SECONDS)
    asked = Counter((entry["verb"], resource(entry)) for entry in operator.requests()[count:])
    strange = {key for key in asked if key[0] != "watch" and key[1] != "leases"}
    measured = ", ".join(f"{number} {verb} {resource}" for (verb, resource), number in sorted(asked.items()))
    return f"requests in {REST_SECONDS} s of rest", measured or "none", "Lease and watch only", not strange


if __name__ == "__main__":
    sys.exit(main())
