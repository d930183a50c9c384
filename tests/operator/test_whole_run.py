"""The last file: every status that any test before it produced, judged by kstatus itself and by the laws."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from argo import health
from cluster import binaries
from laws import assert_lawful, conditions, wait_for
from reasons import CONTROL_PLANE
from recorder import Recorder
from support import Operator
from zimage_operator.names import STATUS_MANAGER

pytestmark = pytest.mark.control_plane


def test_a_rollout_without_progress_is_given_up(operator: Operator, slow: str) -> None:
    """The real deployment controller's deadline, the shortest that the API takes."""
    wait_for(operator.cluster, slow, "ProgressDeadlineExceeded", seconds=150)
    found = conditions(operator.cluster, slow)
    assert (found["Ready"]["status"], found["Stalled"]["status"]) == ("False", "True")
    assert "kubectl -n t-slow describe pods" in found["Ready"]["message"]


def expected(item: dict[str, Any]) -> str:
    """What a tool that waits has to make of it."""
    status, head = item["status"], item["metadata"]
    found = {one["type"]: one["status"] for one in status.get("conditions", [])}
    if head.get("deletionTimestamp"):
        return "Terminating"
    if status["observedGeneration"] != head["generation"]:
        return "InProgress"
    if found.get("Stalled") == "True":
        return "Failed"
    return "Current" if found["Ready"] == "True" else "InProgress"


def test_kstatus_agrees_with_every_status_of_the_run(statuses: Recorder, slow: str) -> None:
    """Never Current before Ready is True of this very generation, and Failed where we say Stalled."""
    seen = told(statuses)
    program = binaries.programs("kstatus")["kstatus-eval"]
    text = "\n".join(map(json.dumps, seen))
    answer = subprocess.run([program], input=text, capture_output=True, text=True, check=True).stdout
    judged = dict(zip(map(describe, seen), answer.split(), strict=True))
    assert judged == {describe(item): expected(item) for item in seen}
    # One that was never seen is one that nothing was shown about.
    assert {"InProgress", "Failed"} <= set(judged.values())


# Argo CD's word for each of kstatus's.
ARGO = {"Current": {"Healthy", "Suspended"}, "Failed": {"Degraded"}, "InProgress": {"Progressing"}}


def test_argo_s_health_is_that_of_kstatus(statuses: Recorder, slow: str) -> None:
    """docs/gitops/health.lua, by the real Lua 5.1, on every status of the run; deletions are Argo CD's own business."""
    seen = [item for item in told(statuses) if expected(item) != "Terminating"]
    answer = health(seen)
    wrong = {describe(item): word for item, word in zip(seen, answer, strict=True) if word not in ARGO[expected(item)]}
    assert wrong == {}
    assert set(answer) == {"Healthy", "Suspended", "Degraded", "Progressing"}


def test_each_reason_was_caused_by_some_test(statuses: Recorder, slow: str) -> None:
    """Of the group that needs no node; reasons.py says where the others are caused."""
    seen = {one["reason"] for item in told(statuses) for one in item["status"].get("conditions", [])}
    assert CONTROL_PLANE - seen == set()


def told(statuses: Recorder) -> list[dict[str, Any]]:
    """Every status that the operator wrote itself: what others forge stands for a moment (test_threats.py)."""
    statuses.catch_up()
    return [item for item in statuses.versions() if not forged(item)]


def forged(item: dict[str, Any]) -> bool:
    written = (one for one in item["metadata"].get("managedFields", []) if one.get("subresource") == "status")
    return any(one["manager"] != STATUS_MANAGER for one in written)


def describe(item: dict[str, Any]) -> str:
    head = item["metadata"]
    return f"{head['namespace']}/{head['name']} {head['resourceVersion']}"


def test_the_laws_hold_for_every_status_of_the_run(statuses: Recorder, slow: str) -> None:
    for item in told(statuses):
        found = {one["type"]: one for one in item["status"].get("conditions", [])}
        if found:
            assert_lawful(item, found)
