"""Looking at the same things again and again: soon while something is amiss, else at the interval.

One task for each thing that is looked at. The reports are the only memory; a look that finds
what the last one found tells nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

# While something is missing it is looked at often: whoever mends it waits in front of the screen.
RETRY_SECONDS = 3.0
# A network plugin needs a moment after a change (Calico: 0.2 s, others seconds): what a look finds at
# once may be the state before it.
AFTERSHOCK_SECONDS = (2.0, 8.0)
# A look that finds a port closed waits for its silence, 2 s: with 64 at a time 5,000 pods take 160 s,
# which is within the interval.
PARALLEL = 64
# How long past its time a look may be before something must be wrong with this process, beside the
# wait for a place: the longest look is that at a port that stays open, three times over.
OVERDUE_SECONDS = 300.0
LOOK_SECONDS = 25.0

Id = TypeVar("Id", bound=Hashable)
R = TypeVar("R")


class Rounds(Generic[Id, R]):
    """Looks at things, in the background, and remembers what it found."""

    def __init__(self, interval_seconds: float, settled: Callable[[R], bool]) -> None:
        self.interval_seconds, self.settled = interval_seconds, settled
        self.reports: dict[Id, R] = {}
        self.tasks: dict[Id, asyncio.Task[None]] = {}
        self.limit = asyncio.Semaphore(PARALLEL)
        # What a thing was like when it was looked at: a change asks for a new look at once.
        self.states: dict[Id, str] = {}
        # When each look is due, by the loop's clock.
        self.deadlines: dict[Id, float] = {}

    def follow(self, what: Id, state: str, look: Callable[[], Awaitable[R]], told: Callable[[R, bool], None]) -> None:
        """Look at `what` from now on, and at once if its state is a new one.

        `told` hears of each look what it found, and whether that is news.
        """
        if self.states.get(what) == state:
            return
        self.stop(what)
        self.states[what] = state
        self.tasks[what] = asyncio.create_task(self.watch(what, look, told))

    def drop(self, what: Id) -> None:
        """Look at it no more, and forget what was found."""
        self.stop(what)
        self.states.pop(what, None)
        self.reports.pop(what, None)

    def stop(self, what: Id) -> None:
        """End the looks at one thing."""
        task = self.tasks.pop(what, None)
        self.deadlines.pop(what, None)
        if task:
            task.cancel()

    async def close(self) -> None:
        """End all looks."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def watch(self, what: Id, look: Callable[[], Awaitable[R]], told: Callable[[R, bool], None]) -> None:
        """Look at one thing again and again."""
        soon = list(AFTERSHOCK_SECONDS)
        self.due(what, 0)
        while True:
            async with self.limit:
                report = await look()
            news = self.reports.get(what) != report
            self.reports[what] = report
            told(report, news)
            seconds = self.interval_seconds
            if not self.settled(report):
                seconds = min(RETRY_SECONDS, seconds)
            elif soon:
                seconds = min(soon.pop(0), seconds)
            self.due(what, seconds)
            await asyncio.sleep(seconds)

    def due(self, what: Id, seconds: float) -> None:
        """Note when the next look begins."""
        self.deadlines[what] = asyncio.get_running_loop().time() + seconds

    def problems(self, now: float) -> list[str]:
        """Say which looks have ended or are overdue; `now` by the loop's clock."""
        dead = [what for what, task in self.tasks.items() if task.done()]
        patience = OVERDUE_SECONDS + LOOK_SECONDS * len(self.tasks) / PARALLEL
        late = [what for what, deadline in self.deadlines.items() if deadline + patience < now]
        return [f"the probes of {len(dead)} targets have died"] * bool(dead) + [
            f"the probes of {len(late)} targets are overdue"
        ] * bool(late)
