"""Looking again and again: at once after a change, often while something is amiss, else at the interval."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial

import pytest

from zimage_operator import rounds
from zimage_operator.rounds import OVERDUE_SECONDS, Rounds


class Wall:
    """Something to look at."""

    def __init__(self) -> None:
        self.state, self.looks, self.seconds = "blocked", 0, 0.0
        self.news: list[str] = []

    async def look(self) -> str:
        self.looks += 1
        await asyncio.sleep(self.seconds)
        if self.state == "broken":
            raise RuntimeError("a fault of ours")
        return self.state

    def told(self, report: str, news: bool) -> None:
        if news:
            self.news.append(report)


def around(wall: Wall, interval: float = 3600) -> tuple[Rounds[str, str], Callable[[str], None]]:
    made: Rounds[str, str] = Rounds(interval)
    return made, partial(follow, made, wall)


def follow(made: Rounds[str, str], wall: Wall, state: str) -> None:
    made.follow("a", state, wall.look, wall.told, lambda report: report == "blocked")


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "AFTERSHOCK_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(rounds, "RETRY_SECONDS", 0.01)


async def test_after_a_change_it_looks_more_than_once() -> None:
    """What a look finds at once may be the state before the network plugin has heard of the change."""
    wall = Wall()
    made, follow_it = around(wall)
    follow_it("one")
    await until(lambda: wall.looks == 3)
    follow_it("one")
    await asyncio.sleep(0.1)
    assert wall.looks == 3
    follow_it("two")
    await until(lambda: wall.looks == 6)
    assert wall.news == ["blocked"]
    await made.close()


async def test_what_is_amiss_is_looked_at_until_it_is_mended() -> None:
    wall = Wall()
    made, follow_it = around(wall)
    wall.state = "open"
    follow_it("one")
    await until(lambda: wall.looks > 5)
    wall.state = "blocked"
    await until(lambda: wall.news == ["open", "blocked"])
    await made.close()


async def test_whoever_changes_the_state_all_the_time_does_not_blind_us() -> None:
    """Every look comes to its end, and tells what it found."""
    wall = Wall()
    made, follow_it = around(wall)
    wall.seconds, wall.state = 0.5, "open"
    async with asyncio.timeout(60):
        for number in itertools.count():
            follow_it(str(number))
            await asyncio.sleep(0.01)
            if "open" in wall.news:
                break
    await made.close()


@pytest.mark.parametrize("ticks", range(6))
async def test_what_is_dropped_in_the_moment_in_which_it_wakes_is_dropped(ticks: int) -> None:
    """asyncio.wait_for of Python 3.11 may lose a cancellation there, and the look would go on for ever."""
    wall = Wall()
    made, follow_it = around(wall)
    follow_it("one")
    await until(lambda: wall.looks == 3)
    follow_it("two")
    for _ in range(ticks):
        await asyncio.sleep(0)
    task = made.targets["a"].task
    assert task
    made.drop("a")
    await asyncio.wait([task], timeout=60)
    assert task.done()


async def test_what_is_dropped_is_forgotten() -> None:
    wall = Wall()
    made, follow_it = around(wall)
    follow_it("one")
    await until(lambda: bool(made.reports))
    made.drop("a")
    assert not made.reports
    assert not made.targets
    assert made.problems(1e12) == []


async def test_a_look_that_dies_or_hangs_is_a_problem() -> None:
    wall = Wall()
    made, follow_it = around(wall)
    now = asyncio.get_running_loop().time
    follow_it("one")
    await until(lambda: wall.looks == 3)
    assert made.problems(now()) == []
    assert made.problems(now() + 3600 + OVERDUE_SECONDS + 60) == ["the probes of 1 targets are overdue"]
    wall.state = "broken"
    follow_it("two")
    await until(lambda: made.problems(now()) == ["the probes of 1 targets have died"])
    await made.close()
