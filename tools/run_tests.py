#!/usr/bin/env python3
"""Run every tier of tests that this machine can run, in two lanes; the closing line is the last one.

A failure is judged again, alone on the machine, three times (docs/decisions/0005). The number of
executed tests has a floor: a tier that silently vanishes must not look green.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
# Some 3,000 ran on 2026-11-25; fewer than this means that a tier has vanished.
FLOOR = 2900
# A tier of its own (make test-peers): programs of others, which take long to build; and the floor of it.
APART, APART_FLOOR = "peers", 50
# Folders that share a control plane, a node, or a look at the whole machine are one lane, one process.
# Two at a time: half of the tests wait for a cluster while the other half compute. Longest first.
TOGETHER = {"contract": "worker", "chart": "node", "cluster": "node", "demo": "node"}
AT_ONCE = 2
LONGEST = ("operator", "worker")
# What fails more often than this is broken, not unsteady.
UNSTEADY_MAX = 3
TRIES = 3
# It judges what all tests before it have left: alone it finds nothing to judge, and passes.
WHOLE_RUN = "test_whole_run.py"
# pytest's own exit code for tests that failed; every greater one is a broken run.
TESTS_FAILED = 1


@dataclass(frozen=True)
class Ran:
    """How one pytest ended: its exit code, what it counted, and the names of what failed."""

    code: int
    counts: dict[str, int]
    failed: tuple[str, ...]


def main() -> int:
    """Run everything but the tier apart, or with its name that alone; give the exit code."""
    if sys.argv[1:] == [APART]:
        return judged({APART: [f"tests/{APART}"]}, APART_FLOOR)
    return judged(lanes(), FLOOR)


def judged(wanted: dict[str, list[str]], floor: int) -> int:
    """Run these lanes, look again at what failed, and say how it ended; give the exit code."""
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = list(pool.map(lambda item: run(*item), wanted.items()))
    counts = {kind: sum(each.counts[kind] for each in runs) for kind in ("failed", "passed", "skipped")}
    unsteady = [name for each in runs for name in each.failed]
    # A run that was killed (negative) or broke off says more than a test that failed.
    code = max(abs(each.code) for each in runs)
    if code == TESTS_FAILED and steady_alone(unsteady):
        code = 0
        counts = {**counts, "failed": 0, "passed": counts["passed"] + counts["failed"], "unsteady": len(unsteady)}
        print("\n".join(f"UNSTEADY {name} failed beside others, and passed {TRIES} times alone" for name in unsteady))
    if not code and counts["passed"] < floor:
        print(f"only {counts['passed']} tests ran, at least {floor} are expected: which tier was skipped, and why?")
        code = 1
    print(closing(counts, time.monotonic() - began))
    return code


def lanes() -> dict[str, list[str]]:
    """Give the folders of each lane, the longest lanes first."""
    found: dict[str, list[str]] = {name: [] for name in LONGEST}
    for folder in sorted({path.parent.name for path in ROOT.glob("tests/*/test_*.py")} - {APART}):
        found.setdefault(TOGETHER.get(folder, folder), []).append(f"tests/{folder}")
    return found


def command(*arguments: str) -> list[str]:
    """Give the command line of one pytest."""
    return [sys.executable, "-m", "pytest", "-q", *arguments]


def environment() -> dict[str, str]:
    """Give its environment."""
    # Two torch threads on two busy cores spin against each other: 0.15 s becomes 4.5 s.
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def run(lane: str, tests: Sequence[str]) -> Ran:
    """Run these tests, and say with the lane before each line what pytest says, when it says it."""
    with tempfile.TemporaryDirectory() as folder:
        # A cache of its own, so that the other lane does not write over what failed, and a folder of its own:
        # of pytest's own ones the oldest goes when a fourth run begins.
        extra = ["-o", f"cache_dir={folder}/cache", f"--basetemp={folder}/t", f"--junitxml={folder}/report.xml"]
        with subprocess.Popen(
            command(*extra, "--durations=20", *tests),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                print(f"{lane} | {line}", end="", flush=True)
        return Ran(process.returncode, counted(Path(folder) / "report.xml"), failed(Path(folder) / "cache"))


def counted(report: Path) -> dict[str, int]:
    """Count the tests of a junit report by how they ended."""
    totals = {"tests": 0, "failed": 0, "skipped": 0}
    # Written by pytest a moment ago: no foreign input.
    for suite in ElementTree.parse(report).getroot().iter("testsuite") if report.exists() else ():  # noqa: S314
        totals["tests"] += int(suite.get("tests", 0))
        totals["failed"] += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        totals["skipped"] += int(suite.get("skipped", 0))
    passed = totals.pop("tests") - totals["failed"] - totals["skipped"]
    return {**totals, "passed": passed}


def failed(cache: Path) -> tuple[str, ...]:
    """Name the tests that failed, as pytest takes them on the command line."""
    noted = cache / "v/cache/lastfailed"
    return tuple(json.loads(noted.read_text())) if noted.exists() else ()


def steady_alone(names: Sequence[str]) -> bool:
    """Whether few failed, and each of them passes every time when nothing else runs."""
    if any(WHOLE_RUN in name for name in names):
        return False
    return 0 < len(names) <= UNSTEADY_MAX and not any(
        run(f"again, alone, {number} of {TRIES}", names).code for number in range(1, TRIES + 1)
    )


def closing(counts: dict[str, int], seconds: float) -> str:
    """Say it as pytest does."""
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return f"{told} in {seconds:.2f}s ({int(seconds) // 60} min)"


if __name__ == "__main__":
    sys.exit(main())
