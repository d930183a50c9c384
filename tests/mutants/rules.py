"""Every rule of the design, the tests that show it, and a way to break it that these tests have to see.

The table is rules.txt. Of each line the first sign says what it is:

    =  a rule: its name and, behind the bar, what it says
    *  one clause of that rule
    >  a test that shows it, below tests/, or a check of COMMANDS; some judge what their whole file has done (AFTER)
    @  the file in which it is broken
    -  the lines that stand there, together and once
    +  the lines that stand there in the mutant
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

TABLE = Path(__file__).with_name("rules.txt")
# Checks of `make check` that can show a rule, with the folder of the programs as {bin}.
COMMANDS = {
    "make check: lint-imports": ("{bin}/lint-imports",),
    "make check: generate": ("{bin}/python", "tools/generate.py", "--check"),
}


# Of a test that can be run only behind all others of its file.
AFTER = " after its file"


@dataclass(frozen=True)
class Mutant:
    """One clause of a rule, and one way to break it."""

    rule: str
    clause: str
    tests: tuple[str, ...] = ()
    file: str = ""
    old: str = ""
    new: str = ""

    def applied(self, text: str) -> str:
        """Break the rule in a file's text.

        Raises:
            ValueError: the lines are not there, or there twice: the table is out of date.
        """
        # Whole lines: the end of one is not taken for it.
        lines = re.compile(f"^{re.escape(self.old)}", re.MULTILINE)
        found = len(lines.findall(text))
        if found != 1 or not self.old:
            raise ValueError(f"{self.rule}: {self.clause}: its lines stand {found} times in {self.file}")
        return lines.sub(lambda _: self.new, text)


def read(text: str) -> tuple[dict[str, str], tuple[Mutant, ...]]:
    """Read the table; give what each rule says, and the mutants in their order."""
    rules: dict[str, str] = {}
    mutants: list[Mutant] = []
    for sign, line in signed(text):
        last = mutants[-1] if mutants else Mutant("", "")
        match sign:
            case "=":
                name, _, said = line.partition(" | ")
                rules[name] = said
            case "*":
                mutants.append(Mutant(list(rules)[-1], line))
            case ">":
                mutants[-1] = replace(last, tests=(*last.tests, line))
            case "@":
                mutants[-1] = replace(last, file=line)
            case "-":
                mutants[-1] = replace(last, old=f"{last.old}{line}\n")
            case "+":
                mutants[-1] = replace(last, new=f"{last.new}{line}\n")
            case _:
                raise ValueError(f"a line of the table begins with {sign!r}: {line}")
    return rules, tuple(mutants)


def signed(text: str) -> Iterator[tuple[str, str]]:
    """Give each line's sign, and what follows it: at once where it is code, else after a blank."""
    for line in filter(None, text.splitlines()):
        yield line[0], line[1:] if line[0] in "-+" else line[2:]


SAID, RULES = read(TABLE.read_text())
