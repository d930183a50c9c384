"""What the status says of proofs and holes: how many are told, and how often a time is written; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from .exposure import Hole
from .names import MAX_EXPOSURES

# A status that is written after every look would cost 17 writes a second for 5,000 services. This
# is a write an hour each, and none where the status is written anyway (docs/decisions/0200).
RECORD = timedelta(hours=1)
# Beside the first hole, whose text says what to do.
NAMED = 5


def exposures(holes: Sequence[Hole]) -> list[dict[str, str]]:
    """List the holes as the status has them."""
    return [
        {"reason": hole.reason, "kind": hole.ref.kind, "namespace": hole.ref.namespace, "name": hole.ref.name}
        for hole in holes[:MAX_EXPOSURES]
    ]


def summary(holes: Sequence[Hole]) -> str:
    """Say what to do about the first hole, and name the next ones."""
    others = [f"{hole.ref.kind} {hole.ref.name}" for hole in holes[1 : NAMED + 1]]
    others += ["…"] if len(holes) > NAMED + 1 else []
    return f"{holes[0].message}{'; also ' + ', '.join(others) if others else ''}"


def last_probe(document: Mapping[str, Any], looks: Sequence[datetime], previous: Mapping[str, Any]) -> dict[str, str]:
    """Give the time of the oldest of the last looks at the workers.

    A newer time alone is no news: the old one stays until it is an hour behind or something
    else has changed, so that a probe that finds what it found before writes nothing.
    """
    if not looks:
        return {}
    latest, before = min(looks), str(previous.get("lastProbeTime") or "")
    same = document == {key: value for key, value in previous.items() if key != "lastProbeTime"}
    kept = same and not is_due(before, latest)
    return {"lastProbeTime": before if kept else latest.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def is_due(recorded: str, latest: datetime) -> bool:
    """Whether the time in a status is no longer good enough; a forged one from the future never is."""
    try:
        age = latest - datetime.fromisoformat(recorded)
    except (ValueError, TypeError):
        return True
    return not timedelta(seconds=-1) <= age < RECORD
