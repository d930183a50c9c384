"""What a cluster could leave on the machine, for the tests that say: nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from pathlib import Path


def traces(directory: Path) -> list[str]:
    """Everything that bears the mark of the cluster in `directory`: processes, mounts, groups, files."""
    mark = str(directory)
    found = [f"file {directory}"] if directory.exists() else []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            # Ourselves: the test's own command line may name the folder.
            if process.name != str(os.getpid()) and (mark in command or mark in os.readlink(process / "cwd")):
                found.append(f"process {process.name} {command}")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if mark in line]
    name = f"zimage-{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
    # os.walk passes over what goes while it looks; glob raises.
    groups = [Path(where) / name for where, folders, _ in os.walk("/sys/fs/cgroup") if name in folders]
    return found + [f"control group {path}" for path in groups]


def wait_until_none(directory: Path, seconds: float) -> list[str]:
    """Give what is left of the cluster after at most that time."""
    deadline = time.monotonic() + seconds
    while (found := traces(directory)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def machine() -> dict[str, object]:
    """What no cluster may change: interfaces, addresses, rules, named namespaces, system folders."""

    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    folders = ("/var/lib", "/var/log", "/run", "/etc/cni", "/opt")
    return {
        "links": said("ip", "-brief", "link"),
        "addresses": said("ip", "-brief", "address"),
        "routes": said("ip", "route"),
        "named network namespaces": said("ip", "netns"),
        "rules": said("nft", "list", "ruleset"),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "folders": {name: sorted(os.listdir(name)) for name in folders if Path(name).is_dir()},
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "overcommit": Path("/proc/sys/vm/overcommit_memory").read_text(),
    }
