"""Text files with places to fill in: `@NAME@`, alone on its line for a block of lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "templates"
PLACE = re.compile(r"@([A-Z_]+)@")


@cache
def template(name: str) -> str:
    """Give a file of templates/; it is part of the program."""
    return (FOLDER / name).read_text(encoding="utf-8")


def filled(name: str, values: Mapping[str, object]) -> str:
    """Fill every place of a template; what is filled in is not looked at again.

    Raises:
        KeyError: a place without a value: a mistake of ours.
    """
    lines = [part for line in template(name).splitlines() for part in block(line, values)]
    return "\n".join(lines) + "\n"


def block(line: str, values: Mapping[str, object]) -> list[str]:
    """Fill one line; a block keeps the indentation of its place, and an empty one leaves no line."""
    alone = PLACE.fullmatch(line.strip())
    if not alone:
        return [PLACE.sub(lambda place: str(values[place[1]]), line)]
    indent = line[: len(line) - len(line.lstrip())]
    return [f"{indent}{part}".rstrip() for part in str(values[alone[1]]).splitlines()]
