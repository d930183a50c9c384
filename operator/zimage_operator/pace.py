"""How often one thing may be done: some times at once, then once in a while."""

from __future__ import annotations

from collections.abc import Hashable


class Pace:
    """A token bucket for each thing; what has rested is not remembered. Times are of the loop's clock."""

    def __init__(self, burst: int, every_seconds: float) -> None:
        self.burst, self.every_seconds = burst, every_seconds
        # When each bucket will be full again.
        self.full: dict[Hashable, float] = {}

    def wait(self, what: Hashable, now: float) -> float:
        """Take one token and give 0, or give the seconds until there is one."""
        full = max(self.full.get(what, now), now)
        left = full - now - (self.burst - 1) * self.every_seconds
        if left > 0:
            return left
        self.full[what] = full + self.every_seconds
        return 0.0

    def forget(self, what: Hashable) -> None:
        """It will not be done any more."""
        self.full.pop(what, None)
