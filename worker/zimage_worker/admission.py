"""Who may have the GPU: rate limits, then a place in a bounded queue, or a refusal at once.

Everything here runs on the event loop, between two awaits: that is what makes it atomic.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from .errors import QueueFull, RateLimited

# So many callers are remembered; the ones not seen for longest are forgotten first.
BUCKETS_MAX = 20_000
# Told to a refused client before anything has been measured; a guess.
FIRST_ESTIMATE_SECONDS = 2.0


class RateLimit:
    """Token buckets: `burst` at once, `per_minute` in the long run, for each key."""

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float]) -> None:
        self.per_second = per_minute / 60
        self.burst = float(burst)
        self.clock = clock
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def level(self, key: str) -> float:
        """The tokens that this key has now."""
        tokens, since = self.buckets.get(key, (self.burst, self.clock()))
        return min(self.burst, tokens + (self.clock() - since) * self.per_second)

    def ensure(self, key: str) -> None:
        """Whether there is one, without spending it.

        Raises:
            RateLimited: there is none; Retry-After says when there will be.
        """
        level = self.level(key)
        if level < 1:
            wait = max(1, math.ceil((1 - level) / self.per_second))
            raise RateLimited(f"Too many requests; try again in {wait} s.", retry_after_seconds=wait)

    def take(self, key: str) -> None:
        """Spend one.

        Raises:
            RateLimited: there is none.
        """
        self.ensure(key)
        self.put(key, self.level(key) - 1)

    def give_back(self, key: str) -> None:
        """What was taken in advance and turned out not to be due."""
        self.put(key, min(self.burst, self.level(key) + 1))

    def put(self, key: str, tokens: float) -> None:
        """Remember, and forget the oldest."""
        self.buckets[key] = (tokens, self.clock())
        self.buckets.move_to_end(key)
        while len(self.buckets) > BUCKETS_MAX:
            self.buckets.popitem(last=False)


class FairQueue:
    """One turn at a time; at most `length` wait; users take turns round-robin."""

    def __init__(self, length: int, clock: Callable[[], float]) -> None:
        self.length = length
        self.clock = clock
        self.busy = False
        # The order of keys is the order of turns: who had one goes to the end.
        self.waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.seconds = FIRST_ESTIMATE_SECONDS

    @property
    def waiting_count(self) -> int:
        """How many wait."""
        return sum(len(line) for line in self.waiting.values())

    def retry_after(self) -> int:
        """When a place may be free: one turn, as they have lasted lately."""
        return max(1, math.ceil(self.seconds))

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Hold the GPU for the length of the block.

        Raises:
            QueueFull: at once, before any wait.
        """
        if self.busy:
            await self.wait(user)
        self.busy = True
        began = self.clock()
        try:
            yield
        finally:
            # A running mean over some ten turns.
            self.seconds += (self.clock() - began - self.seconds) / 10
            self.next()

    async def wait(self, user: str) -> None:
        """Stand in line; leaving it frees the place."""
        if self.waiting_count >= self.length:
            raise QueueFull(
                f"All {self.length} places of the queue are taken; try again later.",
                retry_after_seconds=self.retry_after(),
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self.waiting.setdefault(user, deque())
        line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                # It was handed the turn in the same moment: pass it on.
                self.next()
            elif place in line:
                line.remove(place)
                if not line and self.waiting.get(user) is line:
                    del self.waiting[user]
            raise

    def next(self) -> None:
        """Hand the turn to the user whose last one is longest ago; busy stays true meanwhile."""
        while self.waiting:
            user, line = self.waiting.popitem(last=False)
            place = line.popleft()
            if line:
                self.waiting[user] = line
            if not place.done():
                place.set_result(None)
                return
        self.busy = False
