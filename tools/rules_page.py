"""docs/rules.md: every rule of the design, the tests that show it, and how each clause is broken to see them fail."""

from __future__ import annotations

import sys
from difflib import SequenceMatcher
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from mutants.rules import AFTER, COMMANDS, RULES, SAID, Mutant  # noqa: E402

# Of a line of the mutant; the table of mutants has all of it.
LINE = 72
HEAD = """\
# The rules, and the tests that show them

Made by `make generate` from [the table of mutants](../tests/mutants/rules.txt). Of every clause: a test that shows it,
and a line that breaks it. `make mutants` makes each of these changes in a copy of the tree and runs the tests that are
named there; every one of them has to fail. `make mutants ARGS="--only 'reconcile 4'"` tries some, `ARGS=--pure` those
that need no cluster. That the lines still stand there and the tests still exist is a test of its own
(tests/mutants/test_table.py).

What only a whole node can show is not in it: the walls under the real Calico (tests/operator/test_proof.py), the line
of the README (tests/demo), the chart on a node (tests/chart/test_real_node.py); nor what judges every status of a whole
run (tests/operator/test_whole_run.py).
"""


def page() -> str:
    """Give the page."""
    parts = [HEAD]
    for rule, said in SAID.items():
        rows = "".join(row(one) for one in RULES if one.rule == rule)
        head = "| clause | shown by | broken by |\n|---|---|---|\n"
        parts.append(f"\n## {rule[0].upper()}{rule[1:]}\n\n{said[0].upper()}{said[1:]}.\n\n{head}{rows}")
    return "".join(parts)


def row(mutant: Mutant) -> str:
    """Give the row of one clause."""
    tests = "<br>".join(shown(test) for test in mutant.tests)
    return f"| {mutant.clause} | {tests} | {mutant.file}<br>{change(mutant)} |\n"


def shown(test: str) -> str:
    """Name a test."""
    if test in COMMANDS:
        command, _, part = test.partition(": ")
        return f"`{command}` ({part})"
    after = ", behind all others of its file" if test.endswith(AFTER) else ""
    return f"{code(f'tests/{test.removesuffix(AFTER)}')}{after}"


def change(mutant: Mutant) -> str:
    """Show the first line that differs, as it is and as it becomes."""
    old, new = (text.splitlines() for text in (mutant.old, mutant.new))
    word, left, _, right, end = next(one for one in SequenceMatcher(None, old, new).get_opcodes() if one[0] != "equal")
    if word == "insert":
        return f"with {code(next(filter(None, new[right:end])).strip())}"
    gone = code(old[left].strip())
    return f"without {gone}" if word == "delete" else f"{gone} → {code(new[right].strip())}"


def code(text: str) -> str:
    """Give a text as code within a table."""
    short = text if len(text) <= LINE or text.startswith("tests/") else f"{text[: LINE - 1]}…"
    return f"`{short.replace('|', chr(92) + '|').replace('`', chr(39))}`"
