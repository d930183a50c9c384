"""Somebody who outlives the test process and cleans up after it.

A cluster belongs to a *keeper*: a process of its own that starts the programs, waits,
and in the end kills them and removes every file. It ends when

- the owner closes its pipe: on purpose, or because it died, even by SIGKILL, even in
  the middle of starting (the kernel closes the pipe for it), or
- somebody sends it SIGTERM: `make cluster-down`, for a cluster that is meant to stay.

If the keeper itself is killed, the kernel kills its children (PR_SET_PDEATHSIG), and
what they leave in folders is removed by the next `end()` or `sweep()`.
`end()` and everything it uses need the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .binaries import CACHE

ROOT = Path(__file__).resolve().parents[2]
# Clusters of context managers live here, one folder each, beside the image store: its
# files are shared by links, which do not cross filesystems.
RUNS = CACHE / "run"
# Where the logs of clusters go when they end; unset: nowhere.
LOGS_VARIABLE = "ZIMAGE_CLUSTER_LOGS"

PR_SET_CHILD_SUBREAPER = 36
# A keeper kills at once; most of it is the kernel taking namespaces apart.
END_SECONDS = 30

Facts = dict[str, Any]


class ClusterFailed(Exception):
    """The cluster did not come up; the text says which program and shows its last lines."""


class Ended(BaseException):
    """Raised in the keeper's main thread when its time has come."""


# --- the owner's side -----------------------------------------------------------------


def start(kind: str, directory: Path, options: Facts, *, stay: bool) -> tuple[Facts, subprocess.Popen[str]]:
    """Start a keeper for `directory`; give its facts, and its process, whose stdin holds it."""
    if alive(directory):
        raise ClusterFailed(f"a cluster runs in {directory} already; end it first")
    end(directory)
    directory.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.cluster", "keep", kind, str(directory)]
    with (directory / "keeper.log").open("w") as log:
        process = subprocess.Popen(
            [*command, json.dumps({"stay": stay, "options": options})],
            cwd=ROOT,
            stdin=subprocess.DEVNULL if stay else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C is the owner's business: it ends the keeper in order.
            start_new_session=True,
            text=True,
        )
    try:
        return wait_for_answer(process, directory), process
    except BaseException:
        process.terminate()
        process.wait()
        end(directory)
        raise


def wait_for_answer(process: subprocess.Popen[str], directory: Path) -> Facts:
    assert process.stdout
    with process.stdout:
        line = process.stdout.readline()
    if not line:
        log = directory / "keeper.log"
        raise ClusterFailed(f"the keeper died:\n{log.read_text() if log.exists() else ''}")
    answer = json.loads(line)
    if "error" in answer:
        raise ClusterFailed(answer["error"])
    return dict(answer)


def facts(directory: Path) -> Facts:
    """What the keeper of a running cluster told about it."""
    if not alive(directory):
        raise ClusterFailed(f"no cluster runs in {directory}")
    return dict(json.loads((directory / "facts.json").read_text()))


def end(directory: Path) -> None:
    """End the cluster in `directory`, if any, and remove what is left of it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid := alive(directory):
            os.kill(pid, number)
            wait_until_gone(pid, END_SECONDS)
    remove(directory)


def let_go(process: subprocess.Popen[str]) -> None:
    """Close the pipe of a keeper that we own, and wait until it has cleaned up."""
    if process.stdin:
        process.stdin.close()
    process.wait(END_SECONDS)


def wait_until_gone(pid: int, seconds: float) -> None:
    """Wait for the process itself: its files go before it does."""
    started, deadline = start_time(pid), time.monotonic() + seconds
    while started and start_time(pid) == started and time.monotonic() < deadline:
        time.sleep(0.02)


def alive(directory: Path) -> int | None:
    """Give the pid of the directory's keeper if that very process still runs."""
    try:
        pid, started = (directory / "keeper.pid").read_text().split()
    except (OSError, ValueError):
        return None
    # Numbers come round again: the start time says whether it is the same process.
    return int(pid) if start_time(int(pid)) == started else None


def start_time(pid: int) -> str | None:
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


def sweep() -> None:
    """Remove what killed keepers of context managers left."""
    for directory in RUNS.glob("*/"):
        # A young folder may belong to a keeper that has not written its pid yet.
        with contextlib.suppress(FileNotFoundError):
            if not alive(directory) and time.time() - directory.stat().st_mtime > 60:
                remove(directory)


def remove(directory: Path) -> None:
    """Remove a dead cluster's control groups and files. Never called while it lives."""
    groups = directory / "cgroups"
    if groups.exists():
        for group in groups.read_text().splitlines():
            remove_group(Path(group))
    if directory.exists():
        keep_logs(directory)
    # The kernel takes the mounts of a dead namespace down a moment later.
    for _ in range(50):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.1)
    shutil.rmtree(directory)


def remove_group(group: Path) -> None:
    """Control groups go from the leaves up, and only once the last process has really gone."""
    for _ in range(50):
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if not group.exists():
            return
        time.sleep(0.1)


def keep_logs(directory: Path) -> None:
    folder = os.environ.get(LOGS_VARIABLE)
    if folder:
        target = Path(folder) / directory.name
        target.mkdir(parents=True, exist_ok=True)
        for log in directory.glob("*.log"):
            shutil.copy(log, target)


# --- the keeper's side ----------------------------------------------------------------


def keep(bring_up: Callable[[Path, Facts], Facts], directory: Path, order: Facts) -> int:
    """Be the keeper: bring the cluster up, say so, wait for the end, clean up."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: raise_ended())
    (directory / "keeper.pid").write_text(f"{os.getpid()} {start_time(os.getpid())}")
    answer: Facts = {}
    try:
        if not order["stay"]:
            threading.Thread(target=end_with_owner, daemon=True).start()
        answer = bring_up(directory, order["options"])
        (directory / "facts.json").write_text(json.dumps(answer))
        say(answer)
        while True:
            signal.pause()
    except Ended:
        return 0
    except Exception as error:  # the owner shall read why, whatever it was
        answer = {"error": described(error)}
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        kill_children()
        remove(directory)
        if "error" in answer:
            say(answer)


def described(error: Exception) -> str:
    """What the owner reads: our own messages as they are, of others the kind too."""
    return str(error) if isinstance(error, ClusterFailed) else f"{type(error).__name__}: {error}"


def raise_ended() -> NoReturn:
    raise Ended


def end_with_owner() -> None:
    """Nobody ever writes to this pipe: its end is the news."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def say(answer: Facts) -> None:
    # An owner who died meanwhile does not listen any more.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(answer).encode() + b"\n")


def kill_children() -> None:
    """Kill until nobody is left; orphans of children come to the keeper (subreaper)."""
    while True:
        for pid in children_of(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(stat.parent.name))
    return found
