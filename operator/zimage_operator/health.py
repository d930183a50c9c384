"""Whether this process still does its work: what /healthz answers.

A loop that is stuck altogether answers nothing, which the kubelet takes for a failure too.
Restarting costs no write, so a doubt is no reason to wait; yet every bound is far above what
a slow API server can cause.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# One reconcile: 15 requests that each need their five tries of up to 30 s stay below it but for a
# server that answers everything at the last moment.
STUCK_SECONDS = 900.0
# A stream that was cut is back within 30 s (watch.Backoffs), one that is silent within 70 s (kopf's
# inactivity time-out); then it tells what a list has shown already.
SILENT_SECONDS = 240.0

Check = Callable[[float], list[str]]


class Health:
    """Collects signs of life. All times are of the loop's monotonic clock, in seconds."""

    def __init__(self, *checks: Check) -> None:
        self.checks = checks
        self.working: dict[Any, float] = {}
        # Kinds of which a list showed something that no stream had told, and since when.
        self.missed: dict[str, float] = {}

    def begun(self, key: Any, now: float) -> None:
        """A worker has taken a key."""
        self.working[key] = now

    def ended(self, key: Any) -> None:
        """A worker has put it down."""
        self.working.pop(key, None)

    def heard(self, kind: str) -> None:
        """The stream of a kind has told something: it lives."""
        self.missed.pop(kind, None)

    def surprised(self, kind: str, now: float) -> None:
        """A list has shown what the stream of its kind had not told yet."""
        self.missed.setdefault(kind, now)

    def problems(self, now: float) -> list[str]:
        """Say what is wrong, a line each; empty if nothing is."""
        stuck = [key for key, since in self.working.items() if now - since > STUCK_SECONDS]
        found = [f"the reconcile of {'/'.join(key)} hangs" for key in stuck]
        found += [f"the watch of {kind} is dead" for kind, at in self.missed.items() if now - at > SILENT_SECONDS]
        return found + [line for check in self.checks for line in check(now)]
