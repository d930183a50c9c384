"""The Debian packages that the node and the image builds stand on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .binaries import CACHE, locked
from .keeper import ClusterFailed

NODE = (
    "iproute2",
    "nftables",
    "iptables",
    "ipset",
    "conntrack",
    "containerd",
    "runc",
    "containernetworking-plugins",
)
IMAGES = ("buildah", "debootstrap", "busybox-static", "containerd")


def cannot_run() -> str | None:
    """Why the real node cannot run on this machine, in one line; None if it can."""
    if sys.platform != "linux":
        return "the real node needs Linux: it is made of Linux namespaces"
    if os.geteuid() != 0:
        return "the real node needs root: it makes network, mount and pid namespaces and control groups"
    if not Path("/sys/fs/cgroup/memory").is_dir():
        return "the real node needs cgroup v1 hierarchies: nobody has taught it v2 yet"
    if not shutil.which("dpkg-query"):
        return f"the real node needs a Debian system with the packages {' '.join(sorted({*NODE, *IMAGES}))}"
    return None


def ensure(names: tuple[str, ...]) -> None:
    """Install what is missing of `names`, or say in one line what is."""
    if not missing(names):
        return
    # dpkg turns the second of two away.
    with locked(CACHE / "lock" / "packages"):
        install(missing(names))


def install(absent: list[str]) -> None:
    if not absent:
        return
    if os.geteuid() != 0:
        raise ClusterFailed(f"missing Debian packages; as root: apt-get install {' '.join(absent)}")
    print(f"installing Debian packages: {' '.join(absent)}", file=sys.stderr, flush=True)
    apt_get("update")
    apt_get("install", "--no-install-recommends", *absent)


def missing(names: tuple[str, ...]) -> list[str]:
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {line.split()[0] for line in answer.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in installed]


def apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "--quiet", "--yes", *arguments]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ClusterFailed(f"{' '.join(command)} failed:\n{answer.stdout[-2000:]}{answer.stderr[-2000:]}")
