"""The table of mutants is not out of date: each can still be made, and each test that is named is still there."""

from __future__ import annotations

import re

import pytest

from mutants.rules import AFTER, COMMANDS, RULES, SAID, Mutant, read
from support import ROOT

IDS = [f"{one.rule}: {one.clause}" for one in RULES]


@pytest.mark.parametrize("mutant", RULES, ids=IDS)
def test_the_lines_stand_there_once_and_the_tests_are_there(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert mutant.applied(text) != text
    assert mutant.tests
    for test in mutant.tests:
        if test in COMMANDS:
            continue
        file, _, name = test.partition("::")
        name = re.escape(name.removesuffix(AFTER).partition("[")[0])
        assert re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), test


def test_no_clause_stands_twice_and_no_rule_is_without_one() -> None:
    assert len(set(IDS)) == len(IDS)
    assert {one.rule for one in RULES} == set(SAID)


def test_lines_that_are_not_there_or_twice_are_said() -> None:
    _, (mutant,) = read("= r | what it says\n* c\n> x.py::test\n@ f\n-    a\n+    b\n")
    assert mutant == Mutant("r", "c", ("x.py::test",), "f", "    a\n", "    b\n")
    assert mutant.applied("if x:\n    a\nc\n") == "if x:\n    b\nc\n"
    for text in ("", "    a\n    a\n", "        a\n", "    ab\n"):
        with pytest.raises(ValueError, match=r"r: c: its lines stand \d times in f"):
            mutant.applied(text)
    with pytest.raises(ValueError, match="begins with 'x'"):
        read("x nothing\n")
