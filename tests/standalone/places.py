"""Hosts of a test: network, mount and process namespaces without names, which end with this process.

Nothing of them is seen by the machine: no link, no mount, no rule, not for a moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.keeper import children_of

CLONE_NEWNET = 0x40000000
PATIENCE_SECONDS = 60
# With unshare dies the first process inside, and with that the kernel kills all others.
IN_NAMESPACES = (
    *("setpriv", "--pdeathsig=KILL", "--", "unshare", "--net", "--mount", "--pid"),
    *("--fork", "--kill-child", "--mount-proc", "--propagation=private", "--"),
)
LIBC = ctypes.CDLL(None, use_errno=True)


class Place:
    """One host: its namespaces, and what runs there."""

    def __init__(self, name: str) -> None:
        self.name = name
        # `sleep` says nothing; that it is there says that the namespaces are.
        self.holder = subprocess.Popen([*IN_NAMESPACES, "sleep", "infinity"], stdin=subprocess.DEVNULL)
        self.pid = self.first_process()
        self.run("ip", "link", "set", "lo", "up")

    def first_process(self) -> int:
        """The pid, out here, of the first process inside, once it is the one that stays."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            assert self.holder.poll() is None, f"the namespaces of {self.name} did not come up"
            for pid in children_of(self.holder.pid):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0"):
                        return pid
            time.sleep(0.01)
        raise TimeoutError(f"the namespaces of {self.name}")

    def path(self, path: str) -> Path:
        """A file as it is inside."""
        return Path(f"/proc/{self.pid}/root{path}")

    def command(self, *command: str | Path) -> list[str]:
        """The command line that runs `command` inside; it ends with whoever started it."""
        enter = ["setpriv", "--pdeathsig=KILL", "--", "nsenter", f"--target={self.pid}", "--net", "--mount", "--pid"]
        return [*enter, f"--wdns={os.getcwd()}", "--", "setpriv", "--pdeathsig=KILL", "--", *map(str, command)]

    def run(self, *command: str | Path, **options: Any) -> str:
        """Run a command to its end."""
        answer = subprocess.run(self.command(*command), capture_output=True, text=True, check=False, **options)
        assert answer.returncode == 0, f"{self.name}: {' '.join(map(str, command))}\n{answer.stdout}{answer.stderr}"
        return answer.stdout

    def start(self, log: Path, *command: str | Path, **options: Any) -> Program:
        """Start a program."""
        with log.open("ab") as out:
            return Program(subprocess.Popen(self.command(*command), stdout=out, stderr=out, **options), log)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile belong to this host, and stay there."""
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.pid}/ns/net") as there:
            enter(there.fileno())
            try:
                yield
            finally:
                enter(home.fileno())

    def overlay(self, folder: str) -> None:
        """Make a folder of the machine writable for this host alone; what is written is memory."""
        scratch = f"/dev/shm/{self.name}"
        self.run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
        self.run("mkdir", "-p", f"{scratch}/upper", f"{scratch}/work")
        layers = f"lowerdir={folder},upperdir={scratch}/upper,workdir={scratch}/work"
        self.run("mount", "-t", "overlay", "-o", layers, "overlay", folder)

    def end(self) -> None:
        """Everything inside is gone when this returns."""
        self.holder.kill()
        self.holder.wait(PATIENCE_SECONDS)


class Program:
    """A process inside a place; what we hold is nsenter, which waits for it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program itself."""
        for pid in children_of(self.process.pid):
            os.kill(pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, and wait."""
        self.send(number)
        self.process.wait(PATIENCE_SECONDS)

    def check(self) -> None:
        """Complain where it has ended."""
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-4000:]


def enter(descriptor: int) -> None:
    """Move this thread into a network namespace."""
    if LIBC.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def cable(one: Place, one_end: str, other: Place, other_end: str) -> None:
    """Join two places; the link is made inside and is never outside."""
    kind = ("type", "veth", "peer", "name", other_end, "netns", f"/proc/{other.pid}/ns/net")
    # By nsenter for the network alone: the other's pid is one of out here.
    enter_net = ["nsenter", f"--net=/proc/{one.pid}/ns/net", "--"]
    subprocess.run([*enter_net, "ip", "link", "add", one_end, *kind], check=True)
    for place, end in ((one, one_end), (other, other_end)):
        place.run("ip", "link", "set", end, "up")


PYTHON = sys.executable
