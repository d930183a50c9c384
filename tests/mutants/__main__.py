"""Break each rule by hand and see the test fail that shows it: `make mutants`.

Each mutant of rules.py is a whole tree of its own in a temporary folder, with one text replaced in one file. The tests
that are named run there, so that what they import, and what the operator's own process imports, is the mutant. Each of
them has to fail; 1 where one does not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from mutants.rules import AFTER, COMMANDS, RULES, Mutant
from support import ROOT

# Far longer than the slowest of the tests that are named takes to fail.
PATIENCE_SECONDS = 900
WITHOUT_CLUSTER = "not control_plane and not node and not peers"
# Of a test without a cluster, which may wait for what never comes; those with one have a limit of their own.
TEST_SECONDS = 100
# pytest's own exit codes.
FAILED, NOTHING_CHOSEN = 1, 5


@dataclass(frozen=True)
class Found:
    """What became of one mutant: caught, SURVIVED, BROKEN (no test got to judge it) or left out; and how."""

    word: str
    told: str = ""


def main() -> int:
    """Try the mutants that are asked for; give the exit code."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="rules and clauses that hold this text")
    parser.add_argument("--pure", action="store_true", help="without those that need a cluster")
    parser.add_argument("--clusters", action="store_true", help="those that need a cluster, alone")
    parser.add_argument("--sound", action="store_true", help="first see that every test passes where nothing is broken")
    options = parser.parse_args()
    wanted = [one for one in RULES if options.only in f"{one.rule}: {one.clause}"]
    if options.sound and not sound(wanted, pure=options.pure):
        return 1
    lost = []
    for number, mutant in enumerate(wanted, start=1):
        began = time.monotonic()
        found = tried(mutant, pure=options.pure, clusters=options.clusters)
        if found.word in ("SURVIVED", "BROKEN"):
            lost.append(mutant)
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{number}/{len(wanted)} {found.word}: {mutant.rule}: {mutant.clause} ({took}) {found.told}", flush=True)
    print(f"{len(lost)} of {len(wanted)} were not caught")
    return 1 if lost else 0


def sound(wanted: list[Mutant], *, pure: bool) -> bool:
    """Whether all tests pass where nothing is broken: a test that fails anyway catches everything."""
    tests = sorted({test for mutant in wanted for test in mutant.tests if test not in COMMANDS})
    code, output = pytest(ROOT, tests, "-p", "no:cacheprovider", *(["-m", WITHOUT_CLUSTER] if pure else []))
    print(output[-3000:] if code else f"{len(tests)} tests pass where nothing is broken", flush=True)
    return code == 0


def tried(mutant: Mutant, *, pure: bool, clusters: bool) -> Found:
    """Make one mutant and run its tests."""
    if clusters and not needs_cluster(mutant):
        return Found("left out")
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder) / "tree"
        copy(tree)
        target = tree / mutant.file
        target.write_text(mutant.applied(target.read_text()))
        commands = [test for test in mutant.tests if test in COMMANDS]
        tests = [test for test in mutant.tests if test not in COMMANDS]
        for name in commands:
            code, output = run(tree, [part.format(bin=Path(sys.executable).parent) for part in COMMANDS[name]])
            if code == 0:
                return Found("SURVIVED", f"{name} passed")
            told = output.strip().splitlines()[-1:]
        if tests:
            return judged(tree, tests, pure=pure)
        return Found("caught", " ".join(told))


def judged(tree: Path, tests: list[str], *, pure: bool) -> Found:
    """Run the tests in a mutant; every one of them has to fail."""
    report = tree / "report.xml"
    code, output = pytest(tree, tests, f"--junitxml={report}", *(["-m", WITHOUT_CLUSTER] if pure else []))
    if code == NOTHING_CHOSEN and pure:
        return Found("left out")
    if code not in (0, FAILED):
        return Found("BROKEN", output[-2000:])
    failed = failures(report)
    seen = {test: next((said for name, said in failed.items() if matches(test, name)), None) for test in tests}
    passed = [test for test, said in seen.items() if said is None]
    if passed:
        return Found("SURVIVED", f"{' and '.join(passed)} passed")
    return Found("caught", str(seen[tests[0]])[:160])


def needs_cluster(mutant: Mutant) -> bool:
    """Whether a mutant's tests need a cluster."""
    tests = [test for test in mutant.tests if test not in COMMANDS]
    if not tests:
        return False
    return pytest(ROOT, tests, "--collect-only", "-p", "no:cacheprovider", "-m", WITHOUT_CLUSTER)[0] == NOTHING_CHOSEN


def copy(tree: Path) -> None:
    """Copy what git knows or would take."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        source = ROOT / name
        if name and source.is_file():
            target = tree / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target, follow_symlinks=False)


def pytest(tree: Path, tests: list[str], *options: str) -> tuple[int, str]:
    """Run some tests in a tree."""
    chosen = [f"tests/{test.partition('::')[0] if test.endswith(AFTER) else test}" for test in tests]
    limit = f"--timeout={TEST_SECONDS}"
    return run(tree, [sys.executable, "-m", "pytest", "-q", limit, *options, *chosen])


def run(tree: Path, command: list[str]) -> tuple[int, str]:
    """Run a command in a tree, whose packages go before the installed ones; give exit code and output."""
    path = os.pathsep.join(str(tree / part) for part in ("operator", "worker", "tests", "tools"))
    # No bytecode: of a file that was changed within the second it was read in, an old one would be taken.
    more = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    # In CI a tier that cannot run fails, which would pass here for a mutant that was caught.
    environment = {key: value for key, value in os.environ.items() if key != "CI"} | more
    options = {"cwd": tree, "env": environment, "capture_output": True, "text": True, "timeout": PATIENCE_SECONDS}
    answer = subprocess.run(command, check=False, **options)  # type: ignore[call-overload]
    return answer.returncode, answer.stdout + answer.stderr


def failures(report: Path) -> dict[str, str]:
    """Give the tests that failed or could not begin, as pytest takes them, with what they said first."""
    found = {}
    # Written by pytest a moment ago: no foreign input.
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for problem in (*case.iter("failure"), *case.iter("error")):
            path = case.get("classname", "").removeprefix("tests.").replace(".", "/")
            found[f"{path}.py::{case.get('name')}"] = " ".join(problem.get("message", "").split())
    return found


def matches(test: str, name: str) -> bool:
    """Whether a test that failed is the one that is named, or a case of it."""
    wanted = test.removesuffix(AFTER)
    return name == wanted or name.startswith(f"{wanted}[")


if __name__ == "__main__":
    sys.exit(main())
