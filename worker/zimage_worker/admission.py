"""Who may have the GPU: rate limits, then a place in a bounded queue, or a refusal at once.

Everything here runs on the event loop, between two awaits: that is what makes it atomic.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest

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


class Uploads:
    """The bytes of all bodies that are being read, bounded together."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0

    @contextmanager
    def held(self, length_bytes: int) -> Generator[None, None, None]:
        """Room for one body, from before its first byte to when nothing of it is left.

        Raises:
            QueueFull: too many are being read; at once.
        """
        if self.held_bytes + length_bytes > self.most_bytes:
            raise QueueFull("Too many pictures are being uploaded; try again later.", retry_after_seconds=1)
        self.held_bytes += length_bytes
        try:
            yield
        finally:
            self.held_bytes -= length_bytes


@dataclass(eq=False)
class Place:
    """Somebody who waits; `moved` hears of each new position, 1 for the next."""

    turn: asyncio.Future[None]
    seconds: float
    moved: Callable[[int], None] | None
    position: int = 0


class FairQueue:
    """One turn at a time; users take turns round-robin; nobody waits in order to be refused.

    Bounded twice: at most `length` wait, and nobody begins to wait whose order could not be done within
    `longest_seconds`, by the estimates that come with the orders (0 where nobody knows).
    """

    def __init__(self, length: int, longest_seconds: float, clock: Callable[[], float]) -> None:
        self.length = length
        self.longest_seconds = longest_seconds
        self.clock = clock
        self.busy = False
        # When the running turn should end, by the clock.
        self.ends = 0.0
        # The order of keys is the order of turns: who had one goes to the end.
        self.waiting: OrderedDict[str, deque[Place]] = OrderedDict()
        self.seconds = FIRST_ESTIMATE_SECONDS

    @property
    def waiting_count(self) -> int:
        """How many wait."""
        return sum(len(line) for line in self.waiting.values())

    def ensure_room(self, user: str, seconds: float) -> None:
        """For one more order of `seconds`.

        Raises:
            QueueFull: there is none; Retry-After says when there may be.
        """
        running = max(0.0, self.ends - self.clock())
        if self.waiting_count >= self.length:
            raise QueueFull(
                f"All {self.length} places of the queue are taken; try again later.",
                retry_after_seconds=max(1, math.ceil(running)),
            )
        total = running + self.ahead_seconds(user) + seconds
        if seconds and total > self.longest_seconds:
            raise QueueFull(
                f"This would be done in some {total:.0f} s, and a request may take {self.longest_seconds:.0f} s;"
                " try again later.",
                retry_after_seconds=max(1, math.ceil(min(total - self.longest_seconds, running or 1))),
            )

    def ahead_seconds(self, user: str) -> float:
        """The estimates of all who would be served before the user's next order."""
        rounds, names = len(self.waiting.get(user, ())), list(self.waiting)
        place = names.index(user) if user in self.waiting else len(names)
        lines = ((line, rounds + (number < place)) for number, line in enumerate(self.waiting.values()))
        return sum(each.seconds for line, turns in lines for each in islice(line, turns))

    def in_order(self) -> list[Place]:
        """All who wait, the next one first: the first of each user, then the second of each, …"""
        rounds = zip_longest(*self.waiting.values())
        return [place for each in rounds for place in each if place is not None]

    def tell(self) -> None:
        """Tell everybody whose place has changed, at most once each."""
        if not any(place.moved for line in self.waiting.values() for place in line):
            return
        for position, place in enumerate(self.in_order(), start=1):
            if place.moved and place.position != position:
                place.position = position
                place.moved(position)

    @asynccontextmanager
    async def turn(
        self, user: str, seconds: float = 0.0, moved: Callable[[int], None] | None = None
    ) -> AsyncIterator[None]:
        """Hold the GPU for the length of the block, which should take `seconds`.

        Raises:
            QueueFull: at once, before any wait.
        """
        if self.busy:
            await self.wait(user, seconds, moved)
        self.busy = True
        began = self.clock()
        self.ends = began + (seconds or self.seconds)
        try:
            if moved:
                moved(0)
            yield
        finally:
            # A running mean over some ten turns.
            self.seconds += (self.clock() - began - self.seconds) / 10
            self.next()

    async def wait(self, user: str, seconds: float, moved: Callable[[int], None] | None) -> None:
        """Stand in line; leaving it frees the place."""
        self.ensure_room(user, seconds)
        place = Place(asyncio.get_running_loop().create_future(), seconds, moved)
        line = self.waiting.setdefault(user, deque())
        line.append(place)
        self.tell()
        try:
            await place.turn
        except asyncio.CancelledError:
            if place.turn.done() and not place.turn.cancelled() and not place.turn.exception():
                # It was handed the turn in the same moment: pass it on.
                self.next()
            elif place in line:
                line.remove(place)
                if not line and self.waiting.get(user) is line:
                    del self.waiting[user]
                self.tell()
            raise

    def cut(self, error: Exception) -> None:
        """Nobody will have a turn any more: everybody who waits is told at once."""
        for place in self.in_order():
            if not place.turn.done():
                place.turn.set_exception(error)
        self.waiting.clear()

    def next(self) -> None:
        """Hand the turn to the user whose last one is longest ago; busy stays true meanwhile."""
        while self.waiting:
            user, line = self.waiting.popitem(last=False)
            place = line.popleft()
            if line:
                self.waiting[user] = line
            if not place.turn.done():
                place.turn.set_result(None)
                self.tell()
                return
        self.busy = False
