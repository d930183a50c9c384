"""One event for each transition, read off two statuses."""

from __future__ import annotations

from typing import Any

from zimage_operator.exposure import Hole
from zimage_operator.manifest import Ref
from zimage_operator.transitions import changes, openings


def status(*conditions: tuple[str, str, str], exposures: list[dict[str, str]] | None = None) -> dict[str, Any]:
    found = [{"type": kind, "status": state, "reason": reason, "message": "m"} for kind, state, reason in conditions]
    return {"conditions": found, **({"exposures": exposures} if exposures else {})}


READY, BROKEN = ("Ready", "True", "Ready"), ("Ready", "False", "CrashLoop")
UP = ("NetworkPolicyEnforced", "True", "Enforced")
DOWN = ("NetworkPolicyEnforced", "False", "NotEnforced")
PROBING = ("NetworkPolicyEnforced", "Unknown", "NotProbed")


def told(new: dict[str, Any], old: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one.level, one.reason) for one in changes(new, old)]


def test_nothing_new_is_not_told() -> None:
    assert told(status(READY, UP), status(READY, UP)) == []


def test_ready_is_told_by_its_reason() -> None:
    assert told(status(BROKEN), status(READY)) == [("Warning", "CrashLoop")]
    assert told(status(READY), {}) == [("Normal", "Ready")]


def test_that_work_on_a_new_resource_has_begun_is_not_told() -> None:
    # The CRD's default: nobody has judged it.
    new, waiting = {"observedGeneration": -1}, ("Ready", "Unknown", "WaitingForGPU")
    assert told(status(waiting), new) == []
    assert told(status(BROKEN), new) == [("Warning", "CrashLoop")]
    assert told(status(waiting), status(("Ready", "Unknown", "Progressing"))) == [("Normal", "WaitingForGPU")]


def test_walls_that_fall_and_stand_again_are_told_even_where_they_do_not_gate() -> None:
    assert told(status(READY, DOWN), status(READY, UP)) == [("Warning", "NotEnforced")]
    assert told(status(READY, UP), status(READY, DOWN)) == [("Normal", "Enforced")]
    assert told(status(READY, PROBING), status(READY, UP)) == []


def test_walls_that_gate_are_told_once() -> None:
    gated = ("Ready", "False", "NotEnforced")
    assert told(status(gated, DOWN), status(READY, UP)) == [("Warning", "NotEnforced")]


AUDITED = ("ExposureAsDeclared", "False", "ExtraService")


def hole(name: str) -> Hole:
    return Hole("ExtraService", Ref("Service", "a", name), f"Service {name} opens it")


def listed(*names: str) -> list[dict[str, str]]:
    return [{"reason": "ExtraService", "kind": "Service", "namespace": "a", "name": name} for name in names]


def test_each_hole_is_told_when_it_opens_and_when_it_closes() -> None:
    before, after = status(exposures=listed("x", "y")), status(AUDITED, exposures=listed("y", "z"))
    events = list(openings(after, before, [hole("y"), hole("z")]))
    assert [(one.level, one.reason) for one in events] == [("Warning", "ExtraService"), ("Normal", "ExposureClosed")]
    assert events[0].note == "Service z opens it"
    assert "Service a/x" in events[1].note


def test_what_is_not_audited_is_not_called_closed() -> None:
    stalled = status(("Ready", "False", "InvalidSpec"))
    assert list(openings(stalled, status(AUDITED, exposures=listed("x")), [])) == []
