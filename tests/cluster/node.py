"""A real Kubernetes node with its control plane, in namespaces of its own.

    with Node(images=[images.worker_image()], gpus=1, policy="calico") as node:
        node.kubectl("get", "pods")
        node.run(["curl", "https://img.example.org"])     # inside, where its addresses mean something

kube-apiserver, etcd, kubelet, containerd, runc, kube-proxy, CoreDNS, and Calico as CNI
plugin and NetworkPolicy engine are the real programs; the GPUs are made up. The machine's
interfaces, rules, mounts, sysctls and folders stay as they are: everything happens in
mount, network, pid, uts, ipc and cgroup namespaces which end with their first process
(node_init.py), and that ends with the keeper (keeper.py). No packet leaves them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import binaries, images, keeper, node_init, packages, store
from .api import Api
from .control_plane import Cluster
from .images import Image
from .keeper import ROOT, ClusterFailed, Facts
from .programs import PATIENCE_SECONDS

# With unshare dies the first process inside, and with that the kernel kills all others.
IN_NAMESPACES = (
    *("setpriv", "--pdeathsig=KILL", "--", "unshare", "--mount", "--net", "--pid", "--uts", "--ipc"),
    *("--fork", "--kill-child", "--mount-proc", "--propagation=private", "--"),
)
POLICIES = ("calico", "none")
# Locks that the keeper never lets go: they end with it.
HELD: list[Any] = []


def keep(directory: Path, options: Facts) -> Facts:
    """Start the namespaces' first process and wait for its answer (in the keeper)."""
    HELD.append(store.hold())
    make_groups(directory)
    with (directory / "node.log").open("w") as log:
        process = subprocess.Popen(
            [
                *IN_NAMESPACES,
                sys.executable,
                "-m",
                "tests.cluster",
                "node-init",
                directory,
                json.dumps(options),
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            text=True,
        )
    answer = keeper.wait_for_answer(process, directory)
    return {**answer, "pid": keeper.children_of(process.pid)[0]}


def make_groups(directory: Path) -> None:
    """Make a control group for this node in every v1 hierarchy, below the keeper's own.

    Pods thus stay inside whatever limits this session has, and two nodes never see each
    other's `kubepods`. The list in the file is what keeper.remove() removes.
    """
    name = f"zimage-{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        folder = Path("/sys/fs/cgroup", controllers.removeprefix("name=") or "unified")
        if controllers and folder.is_dir():
            groups.append(Path(f"{folder}/{own}", name))
    # Written first: a keeper killed in between leaves a list that is too long, never too short.
    (directory / "cgroups").write_text("".join(f"{group}\n" for group in groups))
    for group in groups:
        group.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            # An empty set admits no process.
            if (group / file).exists():
                (group / file).write_text((group.parent / file).read_text())


class Node(Cluster):
    """A node that lives as long as its owner, or until `stop`."""

    kind = "node"

    def __init__(
        self,
        images: list[Image] | None = None,
        gpus: int = 1,
        policy: str = "calico",
        *,
        directory: Path | None = None,
        pod_security: str = "restricted",
    ) -> None:
        super().__init__(directory)
        if policy not in POLICIES:
            raise ValueError(f"policy is one of {', '.join(POLICIES)}, not {policy}")
        self.images = images or []
        self.gpus = gpus
        self.policy = policy
        self.pod_security = pod_security

    def options(self) -> Facts:
        """Prepare what takes long (packages, programs, images) before anything is started."""
        if why := packages.cannot_run():
            raise ClusterFailed(why)
        packages.ensure(packages.NODE)
        paths = {name: str(path) for name, path in binaries.programs("node").items()}
        wanted = [images.pause_image(), *self.images]
        store.ensure(wanted)
        return {
            "programs": paths,
            "images": [(image.tag, image.name) for image in wanted],
            "gpus": self.gpus,
            "policy": self.policy,
            "pod_security": self.pod_security,
        }

    def run(
        self, command: list[str | Path], *, check: bool = True, **keywords: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the node's namespaces; its output is captured, as text."""
        return super().run(self.inside(command), check=check, **keywords)

    def inside(self, command: list[str | Path]) -> list[str | Path]:
        """The command line that runs `command` inside, for a Popen of one's own."""
        enter = ["nsenter", f"--target={self.facts['pid']}", "-m", "-n", "-p", "-u", "-i", "-C"]
        # nsenter waits outside: without pdeathsig what it started would outlive it.
        return [*enter, f"--wdns={os.getcwd()}", "--", "setpriv", "--pdeathsig=KILL", "--", *command]

    def api(self) -> Api:
        return Api(self.kubeconfig, self.facts["pid"])

    def set_gpus(self, count: int) -> None:
        """Put GPUs in, or take the last ones out, while the node runs (it must have begun with one at least)."""
        counted = self.directory / node_init.GPUS
        draft = counted.with_suffix(".new")
        draft.write_text(str(count))
        # Renamed into place: the plugin may read it at any time.
        draft.rename(counted)
        end = time.monotonic() + PATIENCE_SECONDS
        while self.get("node", node_init.NODE)["status"]["allocatable"].get("nvidia.com/gpu") != str(count):
            if time.monotonic() > end:
                raise ClusterFailed(f"the kubelet does not take {count} GPUs in")
            time.sleep(0.2)

    @property
    def environment(self) -> dict[str, str]:
        """As for any cluster, and kubectl is on the PATH."""
        folder = Path(self.facts["kubectl"]).parent
        return {**super().environment, "PATH": f"{folder}:{os.environ['PATH']}"}
