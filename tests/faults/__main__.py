"""All plans: `make campaign`. Prints the table that docs/campaign.md has, and ends with 1 where a plan failed."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import yaml

from cluster import binaries
from cluster.control_plane import ControlPlane
from faults.campaign import Campaign
from faults.plans import KILLS, REFERENCES, Plan, every
from faults.proxy import FAULTS, Proxy
from support import CLASS, ROOT, Operator

# As many namespaces as one operator goes through at a time; kills throw back everybody, so fewer of these.
TOGETHER, TOGETHER_KILLED = 60, 12
STILL_SECONDS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", default=",".join((*FAULTS, *KILLS)), help="which, with commas between")
    options = parser.parse_args()
    wanted = options.faults.split(",")
    began, rows = time.monotonic(), defaultdict(list)
    writes = learned()
    for faults, size in ((FAULTS, TOGETHER), (KILLS, TOGETHER_KILLED)):
        plans = list(every(writes, [fault for fault in faults if fault in wanted]))
        for batch in chunks(plans, size):
            for plan, problems in once(batch).items():
                rows[plan.fault].append(problems)
                for problem in problems:
                    print(f"{plan}: {problem}", file=sys.stderr, flush=True)
    print(f"\n{writes} writes in the workload, {time.monotonic() - began:.0f} s\n")
    print("| fault | plans | same end, nothing open on the way, still afterwards |\n|---|---|---|")
    for fault, found in rows.items():
        print(f"| {fault or 'none (the references)'} | {len(found)} | {sum(not problems for problems in found)} |")
    return 1 if any(problems for found in rows.values() for problems in found) else 0


def chunks(plans: list[Plan], size: int) -> list[list[Plan]]:
    return [plans[start : start + size] for start in range(0, len(plans), size)]


def learned() -> int:
    """Count the writes of the workload; of two runs the fewer, so that every plan comes to its fault."""
    counts: list[int] = []
    once([], counts)
    return min(counts)


def once(plans: list[Plan], counts: list[int] | None = None) -> dict[Plan, list[str]]:
    """Run some plans on a control plane of their own."""
    with ControlPlane() as cluster, tempfile.TemporaryDirectory() as folder, Proxy(cluster) as proxy:
        cluster.kubectl("apply", "--server-side", "-f", ROOT / "crds")
        cluster.kubectl("apply", "--server-side", "-f", binaries.traefik_crds())
        documents = yaml.safe_load_all((ROOT / "operator" / "install.yaml").read_text())
        cluster.apply(CLASS, *(item for item in documents if item["kind"] != "Deployment"))
        operator = Operator(cluster, Path(folder), ZIMAGE_OPERATOR_LEADER_ELECTION="false")
        operator.kubeconfig = proxy.kubeconfig("zimage-system", "zimage-operator")
        operator.start()
        try:
            campaign = Campaign(cluster, proxy, operator)
            found = campaign.run(plans, STILL_SECONDS)
        finally:
            if operator.process:
                operator.process.kill()
                operator.process.wait()
        if "Traceback" in operator.log.read_text():
            found[REFERENCES[0]].append("a traceback in the log")
        if counts is not None:
            counts += [proxy.writes[one.place] for one in REFERENCES]
        return found


if __name__ == "__main__":
    sys.exit(main())
