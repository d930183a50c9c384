"""What Argo CD makes of a status, case by case; of every status of a run test_whole_run.py holds it against kstatus."""

from __future__ import annotations

from typing import Any

import pytest

from argo import health

READY, STALLED = ("Ready", "True", "Ready"), ("Stalled", "True", "InvalidSpec")
# Generation, the one that the status is about, its conditions, and Argo CD's word.
CASES: dict[str, tuple[int, int, list[tuple[str, str, str]], str]] = {
    "new": (1, -1, [], "Progressing"),
    "served": (1, 1, [READY], "Healthy"),
    "changed, and not looked at yet": (2, 1, [READY], "Progressing"),
    "under way": (1, 1, [("Ready", "Unknown", "Progressing"), ("Reconciling", "True", "Progressing")], "Progressing"),
    "in trouble that may pass": (1, 1, [("Ready", "False", "CrashLoop")], "Progressing"),
    "only its author can mend it": (1, 1, [("Ready", "False", "InvalidSpec"), STALLED], "Degraded"),
    "suspended": (1, 1, [("Ready", "True", "Suspended"), ("Suspended", "True", "Suspended")], "Suspended"),
}


@pytest.mark.parametrize("case", CASES)
def test_argo_s_word(case: str) -> None:
    generation, observed, found, word = CASES[case]
    conditions = [{"type": kind, "status": state, "reason": why, "message": "m"} for kind, state, why in found]
    status: dict[str, Any] = {"observedGeneration": observed, **({"conditions": conditions} if conditions else {})}
    assert health([{"metadata": {"generation": generation}, "status": status}]) == [word]
