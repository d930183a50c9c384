"""Argo CD's judgement of a resource: docs/gitops/health.lua, run by the real Lua 5.1."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from cluster import packages
from support import ROOT


def health(items: Sequence[dict[str, Any]]) -> list[str]:
    """Give Argo CD's word for each resource."""
    packages.ensure(("lua5.1",))
    script = (ROOT / "docs/gitops/health.lua").read_text()
    program = f"local function judged(obj)\n{script}\nend\n" + "".join(
        # A function each: Lua 5.1 counts the constants of one.
        f"print((function() return judged({lua(item)}).status end)())\n"
        for item in items
    )
    answer = subprocess.run(["lua5.1", "-"], input=program, capture_output=True, text=True, check=True).stdout.split()
    assert len(answer) == len(items)
    return answer


def lua(value: Any) -> str:
    """A value of JSON as Lua writes it."""
    match value:
        case None:
            return "nil"
        case bool() | int() | float():
            return json.dumps(value)
        case str():
            return '"' + "".join(f"\\{byte:03d}" for byte in value.encode()) + '"'
        case list():
            return "{" + ",".join(map(lua, value)) + "}"
        case _:
            return "{" + ",".join(f"[{lua(name)}]={lua(one)}" for name, one in value.items()) + "}"
