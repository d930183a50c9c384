"""One key once, in order, with back-off; what was asked for before what is only reported. client-go's semantics.

Within each of the two lines every namespace has its turn (fairline.py).
A key that is added while it is being worked on is worked on once more afterwards, never
twice at the same time.
"""

from __future__ import annotations

import asyncio
import random

from .fairline import FairLine
from .manifest import Key

# Back-off of a key that fails: 0.4 s, doubled each time, up to 5 minutes (client-go's shape).
FIRST_SECONDS = 0.2
LAST_SECONDS = 300.0
DOUBLINGS = 11
# Of so many keys one is of the second line, however long the first is: whoever keeps the first one
# full must not keep the second one waiting for ever.
SHARE = 10


class WorkQueue:
    """Keys to be reconciled."""

    def __init__(self) -> None:
        self.live = FairLine()
        self.later = FairLine()
        self.dirty: set[Key] = set()
        self.busy: set[Key] = set()
        self.failures: dict[Key, int] = {}
        self.timers: dict[Key, asyncio.TimerHandle] = {}
        self.wake = asyncio.Event()
        # How many live keys have passed the second line since it had its turn.
        self.passed = 0
        # Nothing more is given out.
        self.closed = False

    def __len__(self) -> int:
        return len(self.live) + len(self.later)

    def add(self, key: Key, *, live: bool = True) -> None:
        """Ask for a reconcile; a live event passes what a resync, or a workload's progress, put in before it."""
        if key in self.dirty:
            if live and key in self.later:
                self.later.remove(key)
                self.live.append(key)
            return
        self.dirty.add(key)
        if key not in self.busy:
            self.push(key, live=live)

    def push(self, key: Key, *, live: bool) -> None:
        """Put a key in line and wake one worker."""
        (self.live if live else self.later).append(key)
        self.wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for a reconcile in `seconds`; of several timers the first wins."""
        loop = asyncio.get_running_loop()
        timer = self.timers.get(key)
        if timer and timer.when() <= loop.time() + seconds:
            return
        if timer:
            timer.cancel()
        self.timers[key] = loop.call_later(seconds, self.fire, key)

    def fire(self, key: Key) -> None:
        """A timer has run out."""
        self.timers.pop(key, None)
        self.add(key)

    def retry(self, key: Key) -> None:
        """Ask again after a failure, later each time; the jitter keeps a herd apart."""
        count = self.failures[key] = self.failures.get(key, 0) + 1
        seconds = min(LAST_SECONDS, FIRST_SECONDS * 2 ** min(count, DOUBLINGS))
        self.add_after(key, seconds * random.uniform(0.8, 1.2))  # noqa: S311

    def forget(self, key: Key) -> None:
        """A success ends the back-off."""
        self.failures.pop(key, None)

    async def get(self) -> Key:
        """Wait for the next key; `done` has to follow."""
        while self.closed or not (self.live or self.later):
            self.wake.clear()
            await self.wake.wait()
        key = self.line().popleft()
        self.dirty.discard(key)
        self.busy.add(key)
        return key

    def line(self) -> FairLine:
        """Give the line whose turn it is."""
        if not (self.live and self.later):
            return self.live or self.later
        self.passed = (self.passed + 1) % SHARE
        return self.live if self.passed else self.later

    def done(self, key: Key) -> None:
        """The key was worked on; what came in meanwhile is next in line."""
        self.busy.discard(key)
        if key in self.dirty:
            self.push(key, live=True)
