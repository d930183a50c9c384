#!/usr/bin/env python3
"""Run every tier of tests that this machine can run; pytest's closing line is the last one.

The number of executed tests has a floor: a tier that silently vanishes must not look green.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
# Some 2,290 ran on 2026-11-25; fewer than this means that a tier has vanished.
FLOOR = 2100


def main() -> int:
    """Run pytest with what was given on the command line; give its exit code."""
    # Two torch threads on two busy cores spin against each other: 0.15 s becomes 4.5 s.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--durations=15", f"--junitxml={report}", *sys.argv[1:]]
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if code or sys.argv[1:]:
            return code
        return 0 if executed(report) >= FLOOR else too_few(executed(report))


def executed(report: Path) -> int:
    """Count the tests that ran, skipped ones left out."""
    # Written by pytest a moment ago: no foreign input.
    suites = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314
    return sum(int(suite.get("tests", 0)) - int(suite.get("skipped", 0)) for suite in suites)


def too_few(count: int) -> int:
    """Say that a tier is missing; give the exit code."""
    print(f"only {count} tests ran, at least {FLOOR} are expected: which tier was skipped, and why?")
    return 1


if __name__ == "__main__":
    sys.exit(main())
