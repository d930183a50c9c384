"""Many services on a control plane of their own, the operator, and what both of them use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from audit_tail import Tail
from client import Client

from cluster import binaries
from cluster.control_plane import ControlPlane
from support import CLASS, ROOT, Operator, claim, eventually, published, smallest
from zimage_operator.__main__ import rendered

# As users have them: some dozens of services in a namespace at most.
PER_NAMESPACE = 20
HOME = "zimage-system"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LEAD_SECONDS = 180


def service(number: int, **spec: Any) -> dict[str, Any]:
    """The resource of one number; without a GPU, or all but one would wait for the only one."""
    place = f"bench-{number // PER_NAMESPACE}"
    more = {"gpu": {"count": 0}, "ingress": published(f"s{number}.example.org"), **spec}
    return smallest(f"s{number}", place, **more)


def orphans(number: int) -> list[dict[str, Any]]:
    """The children of one number as plain objects: without owner, or the garbage collector takes them at once."""
    found = rendered(service(number), "traefik.io/ingress-controller")
    for item in found:
        item["metadata"] = {key: value for key, value in item["metadata"].items() if key != "ownerReferences"}
    return found


class Fleet:
    """A control plane with `count` services' namespaces, and an operator that is not started yet."""

    def __init__(self, cluster: ControlPlane, directory: Path, count: int) -> None:
        self.cluster, self.count = cluster, count
        self.operator = Operator(cluster, directory)
        self.tail = Tail(cluster.kubeconfig.parent / "audit.log")

    def client(self) -> Client:
        """A client with every right, whose requests are audited like the operator's."""
        return Client(self.cluster.kubeconfig_for(HOME, "bench"), self.cluster.ca_crt)

    def start(self, **settings: str) -> None:
        self.operator.log.touch()
        before = self.operator.leads()
        self.operator.start(**settings)
        eventually(lambda: self.operator.leads() > before, "the operator leads", LEAD_SECONDS)

    def cpu_seconds(self) -> float:
        """CPU time of the operator since its start."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def memory_mib(self, field: str = "VmRSS") -> float:
        """Resident memory of the operator now, or at its highest (VmHWM)."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024

    @property
    def pid(self) -> int:
        assert self.operator.process
        return self.operator.process.pid

    async def apply(self, numbers: range, **spec: Any) -> None:
        """Apply the resources of some numbers."""
        async with self.client() as client:
            await client.all(client.apply(service(number, **spec)) for number in numbers)


@contextmanager
def fleet(count: int) -> Iterator[Fleet]:
    """Bring up everything but the services."""
    with ControlPlane() as cluster, tempfile.TemporaryDirectory() as folder:
        cluster.kubectl("apply", "--server-side", "-f", ROOT / "crds")
        cluster.kubectl("apply", "--server-side", "-f", binaries.traefik_crds())
        documents = yaml.safe_load_all((ROOT / "operator" / "install.yaml").read_text())
        cluster.apply(CLASS, *(item for item in documents if item["kind"] != "Deployment"), *rights())
        places = sorted({service(number)["metadata"]["namespace"] for number in range(count)})
        cluster.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in places))
        for place in places:
            claim(cluster, place)
        found = Fleet(cluster, Path(folder), count)
        try:
            yield found
        finally:
            if found.operator.process and found.operator.process.poll() is None:
                found.operator.stop()


def rights() -> list[dict[str, Any]]:
    """The bench's own ServiceAccount."""
    subject = {"kind": "ServiceAccount", "name": "bench", "namespace": HOME}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bench", "namespace": HOME}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "bench"},
            "roleRef": role,
            "subjects": [subject],
        },
    ]
