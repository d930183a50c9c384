"""Looking at the same things again and again: soon while something is amiss, else at the interval.

One task for each thing that is looked at. The reports are the only memory; a look that finds
what the last one found tells nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
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


@dataclass
class Target(Generic[R]):
    """One thing that is looked at."""

    # What it was like when it was asked to be looked at: a change asks for a new look at once.
    state: str
    look: Callable[[], Awaitable[R]]
    # Hears of each look what it found, and whether that is news.
    told: Callable[[R, bool], None]
    # Whether what was found will stay as it is for a while.
    settled: Callable[[R], bool]
    # When the next look is due, by the loop's clock.
    due: float
    soon: list[float] = field(default_factory=lambda: list(AFTERSHOCK_SECONDS))
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Rounds(Generic[Id, R]):
    """Looks at things, in the background, and remembers what it found."""

    def __init__(self, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self.reports: dict[Id, R] = {}
        self.targets: dict[Id, Target[R]] = {}
        self.limit = asyncio.Semaphore(PARALLEL)

    def follow(
        self,
        what: Id,
        state: str,
        look: Callable[[], Awaitable[R]],
        told: Callable[[R, bool], None],
        settled: Callable[[R], bool],
    ) -> None:
        """Look at `what` from now on, and anew if its state is another one.

        A look that is under way is not broken off: somebody who changes a policy all the time
        could otherwise keep every look from its end, and the last report would stand for ever.
        """
        target = self.targets.get(what)
        if target is None:
            target = self.targets[what] = Target(state, look, told, settled, asyncio.get_running_loop().time())
            target.task = asyncio.create_task(self.watch(what, target))
        elif target.state != state:
            target.state, target.look, target.told, target.settled = state, look, told, settled
            target.soon = list(AFTERSHOCK_SECONDS)
            target.wake.set()

    def drop(self, what: Id) -> None:
        """Look at it no more, and forget what was found."""
        target = self.targets.pop(what, None)
        self.reports.pop(what, None)
        if target and target.task:
            target.task.cancel()

    async def close(self) -> None:
        """End all looks."""
        tasks = [target.task for target in self.targets.values() if target.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def watch(self, what: Id, target: Target[R]) -> None:
        """Look at one thing again and again."""
        loop = asyncio.get_running_loop()
        while True:
            target.wake.clear()
            async with self.limit:
                report = await target.look()
            news = self.reports.get(what) != report
            self.reports[what] = report
            target.told(report, news)
            seconds = self.pause(target, report)
            target.due = loop.time() + seconds
            # Not wait_for: of Python 3.11 it loses a cancellation that comes in the moment of waking.
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await target.wake.wait()

    def pause(self, target: Target[R], report: R) -> float:
        """Give the seconds until the next look."""
        if not target.settled(report):
            return min(RETRY_SECONDS, self.interval_seconds)
        return min(target.soon.pop(0) if target.soon else self.interval_seconds, self.interval_seconds)

    def problems(self, now: float) -> list[str]:
        """Say which looks have ended or are overdue; `now` by the loop's clock."""
        patience = OVERDUE_SECONDS + LOOK_SECONDS * len(self.targets) / PARALLEL
        dead = sum(target.task is None or target.task.done() for target in self.targets.values())
        late = sum(target.due + patience < now for target in self.targets.values())
        found = {f"the probes of {dead} targets have died": dead, f"the probes of {late} targets are overdue": late}
        return [text for text, count in found.items() if count]
