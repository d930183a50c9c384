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
# inactivity time-out); where nothing happens the API server sends a bookmark every minute.
SILENT_SECONDS = 240.0

Check = Callable[[float], list[str]]


class Health:
    """Collects signs of life. All times are of the loop's monotonic clock, in seconds."""

    def __init__(self, *checks: Check, failed_at: Callable[[], float] = lambda: 0.0) -> None:
        # When the API server last failed us: its own silence is no fault of a stream.
        self.checks, self.failed_at = checks, failed_at
        self.working: dict[Any, float] = {}
        # Kinds of which a list showed something that no stream had told, and since when.
        self.missed: dict[str, float] = {}
        # The streams by name: when each last gave a sign, events and bookmarks alike.
        self.signs: dict[str, float] = {}
        # Those that ended although their kind is still served.
        self.ended_streams: set[str] = set()

    def begun(self, key: Any, now: float) -> None:
        """A worker has taken a key."""
        self.working[key] = now

    def ended(self, key: Any) -> None:
        """A worker has put it down."""
        self.working.pop(key, None)

    def heard(self, stream: str, now: float) -> None:
        """A stream has given a sign: it lives."""
        self.signs[stream] = now
        self.ended_streams.discard(stream)

    def told(self, kind: str) -> None:
        """The stream of a kind has told an event."""
        self.missed.pop(kind, None)

    def stream_ended(self, stream: str) -> None:
        """A stream will tell nothing more, and nobody asked it to stop."""
        self.ended_streams.add(stream)

    def stream_gone(self, stream: str) -> None:
        """A stream has ended because what it watched is served no more."""
        self.signs.pop(stream, None)

    def surprised(self, kind: str, now: float) -> None:
        """A list has shown what the stream of its kind had not told yet."""
        self.missed.setdefault(kind, now)

    def problems(self, now: float) -> list[str]:
        """Say what is wrong, a line each; empty if nothing is."""
        stuck = [key for key, since in self.working.items() if now - since > STUCK_SECONDS]
        found = [f"the reconcile of {'/'.join(key)} hangs" for key in stuck]
        silent = [name for name, at in self.signs.items() if now - max(at, self.failed_at()) > SILENT_SECONDS]
        missed = [kind for kind, at in self.missed.items() if now - at > SILENT_SECONDS]
        found += [f"the watch of {name} is dead" for name in sorted({*self.ended_streams, *silent, *missed})]
        return found + [line for check in self.checks for line in check(now)]
