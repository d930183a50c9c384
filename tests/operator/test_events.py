"""One event for each thing that happened, however often it is put right; and drift is counted."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from support import smallest
from zimage_operator.api import Api
from zimage_operator.cache import Cache
from zimage_operator.cluster import Cluster, Repair
from zimage_operator.events import NAMED_FIELDS, Recorder, describe
from zimage_operator.manifest import Ref
from zimage_operator.observed import Drift
from zimage_operator.spec import parse

SERVICE = parse(smallest(namespace="team-a"))
POLICY = Ref("NetworkPolicy", "team-a", "studio")
EDIT = Repair(POLICY, ("spec.ingress",), ("kubectl-edit",))


class Kept(Recorder):
    """Keeps what it would have sent."""

    def __init__(self) -> None:
        super().__init__(Api(None), "test")
        self.sent: list[tuple[str, str]] = []

    def emit(self, head: Any, level: str, reason: str, action: str, note: str) -> None:
        self.sent.append((reason, note))


async def test_an_edit_that_comes_again_and_again_is_one_event() -> None:
    """A competitor in a loop is put right four times a second."""
    recorder = Kept()
    for _ in range(50):
        recorder.repaired(SERVICE, EDIT)
    assert recorder.sent == [
        ("DriftRepaired", "NetworkPolicy studio: spec.ingress was changed by kubectl-edit and has been put back")
    ]
    # Another field, another hand, and a deletion are something else.
    recorder.repaired(SERVICE, Repair(POLICY, ("spec.egress",), ("kubectl-edit",)))
    recorder.repaired(SERVICE, Repair(POLICY, ("spec.ingress",), ("mallory",)))
    recorder.repaired(SERVICE, Repair(POLICY, (), (), deleted=True))
    assert [reason for reason, _ in recorder.sent] == [*["DriftRepaired"] * 3, "Restored"]


async def test_what_flaps_is_told_once_a_minute_each_way() -> None:
    recorder = Kept()
    body = {"metadata": {"namespace": "team-a", "name": "studio", "uid": "u"}}

    def status(state: str, reason: str) -> dict[str, Any]:
        return {"conditions": [{"type": "Ready", "status": state, "reason": reason, "message": "m"}]}

    up, down = status("True", "Ready"), status("False", "CrashLoop")
    for _ in range(20):
        recorder.transitions({**body, "status": up}, down, ())
        recorder.transitions({**body, "status": down}, up, ())
    assert [reason for reason, _ in recorder.sent] == ["CrashLoop", "Ready"]


def test_who_did_it_is_not_pushed_out_of_the_note() -> None:
    fields = tuple(f"spec.field-{number}" for number in range(NAMED_FIELDS + 3))
    note = describe(Repair(POLICY, fields, ("mallory", "kubectl")))
    assert note.endswith(" and 3 more was changed by mallory and kubectl and has been put back")
    assert "an unknown field manager" in describe(Repair(POLICY, fields, ()))


@pytest.mark.parametrize(
    ("found", "deleted", "counted"),
    [([Drift(("spec", "ingress"), "kubectl-edit")], False, 1), ([], True, 1), ([], False, 0)],
    ids=["edited", "deleted", "an upgrade of ours"],
)
def test_drift_is_counted_and_reported_with_its_managers(found: list[Drift], deleted: bool, counted: int) -> None:
    told: list[Repair] = []
    cluster = Cluster(Api(None), Cache(), lambda _, repair: told.append(repair), lambda *_: None)

    def count() -> float:
        return REGISTRY.get_sample_value("zimage_operator_drift_repaired_total", {"kind": POLICY.kind}) or 0

    before = count()
    cluster.report(SERVICE, POLICY, found, deleted=deleted)
    assert count() - before == len(told) == counted
    if found:
        assert told == [Repair(POLICY, ("spec.ingress",), ("kubectl-edit",))]
