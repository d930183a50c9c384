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
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
# Some 2,290 ran on 2026-11-25; fewer than this means that a tier has vanished.
FLOOR = 2100
# Two lanes: half of the tests wait for a cluster while the other half compute (tests/conftest.py).
LANES = ["-n", "2", "--dist", "loadscope"]
# What fails more often than this is broken, not unsteady.
UNSTEADY_MAX = 3
TRIES = 3
TESTS_FAILED = 1


def main() -> int:
    """Run pytest with what was given on the command line; give its exit code."""
    if sys.argv[1:]:
        return pytest(*sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = pytest(*LANES, "--cache-clear", "--durations=25", f"--junitxml={report}")
        ran = executed(report)
        unsteady = failed() if code == TESTS_FAILED else []
    if code not in {0, TESTS_FAILED} or (unsteady and not steady_alone(unsteady)):
        return code
    if ran < FLOOR:
        return too_few(ran)
    if unsteady:
        print(closing(ran, unsteady))
    return 0


def pytest(*arguments: str) -> int:
    """Run it once; give its exit code."""
    # Two torch threads on two busy cores spin against each other: 0.15 s becomes 4.5 s.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def failed() -> list[str]:
    """Name the tests that failed in the last run, as pytest takes them on the command line."""
    return list(json.loads((ROOT / ".pytest_cache/v/cache/lastfailed").read_text()))


def steady_alone(names: list[str]) -> bool:
    """Whether few failed, and each of them passes every time when nothing else runs."""
    if len(names) > UNSTEADY_MAX:
        return False
    for number in range(1, TRIES + 1):
        print(f"\njudging again, alone, {number} of {TRIES}: {' '.join(names)}", flush=True)
        if pytest(*names):
            return False
    return True


def executed(report: Path) -> int:
    """Count the tests that ran, skipped ones left out."""
    # Written by pytest a moment ago: no foreign input.
    suites = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314
    return sum(int(suite.get("tests", 0)) - int(suite.get("skipped", 0)) for suite in suites)


def too_few(count: int) -> int:
    """Say that a tier is missing; give the exit code."""
    print(f"only {count} tests ran, at least {FLOOR} are expected: which tier was skipped, and why?")
    return 1


def closing(ran: int, unsteady: list[str]) -> str:
    """Say that all passed, and which of them only at the second judgement: each is a bug to mend."""
    lines = [f"UNSTEADY {name} failed beside others and passed {TRIES} times alone" for name in unsteady]
    return "\n".join([*lines, f"{ran} passed, {len(unsteady)} of them unsteady"])


if __name__ == "__main__":
    sys.exit(main())
