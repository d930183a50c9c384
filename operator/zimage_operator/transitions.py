"""Two statuses → what has changed between them, as events for a person; pure.

From the statuses alone, so that a restart tells nothing twice and forgets nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .exposure import Hole

# Beside Ready: what a person wants to hear of even where it does not gate Ready.
WALLS = "NetworkPolicyEnforced"


@dataclass(frozen=True)
class Told:
    """One event without its object and time."""

    level: str
    reason: str
    action: str
    note: str


def changes(status: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[Told]:
    """Give an event for Ready where it has a new reason, and for the walls where they fall or stand again."""
    for kind in ("Ready", WALLS):
        new, old = condition(status, kind), condition(before, kind)
        same = (new.get("status"), new.get("reason")) == (old.get("status"), old.get("reason"))
        # A probe under way is no news; neither is what Ready says in the same words.
        quiet = kind == WALLS and (new.get("status") == "Unknown" or new.get("reason") == ready_reason(status))
        # That work on a new resource has begun is no news either: a thousand of them would have a thousand such events.
        begun = new.get("status") == "Unknown" and not old
        if new and not same and not quiet and not begun:
            level = "Warning" if new["status"] == "False" else "Normal"
            yield Told(level, new["reason"], "Reconcile" if kind == "Ready" else "Probe", new["message"])


def ready_reason(status: Mapping[str, Any]) -> str:
    """Give the reason of Ready."""
    return str(condition(status, "Ready").get("reason", ""))


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Give one condition of a status; empty if there is none."""
    return next((item for item in status.get("conditions") or () if item["type"] == kind), {})


def openings(status: Mapping[str, Any], before: Mapping[str, Any], holes: Sequence[Hole]) -> Iterator[Told]:
    """Give a warning for each new hole, and a word for each that is closed."""
    if not condition(status, "ExposureAsDeclared"):
        return  # a spec that cannot be read is not audited: nothing is known to have closed
    now, then = named(status), named(before)
    texts = {(hole.reason, hole.ref.kind, hole.ref.namespace, hole.ref.name): hole.message for hole in holes}
    for hole in now:
        if hole not in then:
            yield Told("Warning", hole[0], "Audit", texts[hole])
    for reason, kind, namespace, name in then:
        if (reason, kind, namespace, name) not in now:
            note = f"{kind} {namespace}/{name} no longer opens this service ({reason})"
            yield Told("Normal", "ExposureClosed", "Audit", note)


def named(status: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Give the holes that a status lists."""
    found = status.get("exposures") or ()
    return [(item["reason"], item["kind"], item["namespace"], item["name"]) for item in found]
