"""One key once, in order, live before later."""

from __future__ import annotations

import asyncio

import pytest

from zimage_operator.fairline import FairLine
from zimage_operator.workqueue import DOUBLINGS, LAST_SECONDS, SHARE, WorkQueue

A, B = ("ns", "a"), ("ns", "b")


async def test_a_key_waits_once() -> None:
    queue = WorkQueue()
    queue.add(A)
    queue.add(A)
    assert len(queue) == 1


async def test_a_key_that_comes_while_it_is_worked_on_is_worked_on_once_more() -> None:
    queue = WorkQueue()
    queue.add(A)
    assert await queue.get() == A
    queue.add(A)
    assert len(queue) == 0
    queue.done(A)
    assert await queue.get() == A


async def test_live_passes_later() -> None:
    queue = WorkQueue()
    queue.add(A, live=False)
    queue.add(B)
    assert await queue.get() == B
    queue.add(A)
    assert await queue.get() == A


async def test_what_a_resync_put_in_line_goes_forward_when_it_is_asked_for() -> None:
    queue = WorkQueue()
    for key in (A, B):
        queue.add(key, live=False)
    queue.add(B)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == [B, A]


async def served(queue: WorkQueue, wanted: set[tuple[str, str]]) -> list[int]:
    """After how many turns each of some keys is worked on, while the first one's author goes on flooding."""
    turns, number = {}, 0
    # A line that forgot somebody would go on for ever.
    while wanted - turns.keys() and number < 1000:
        key = await queue.get()
        number += 1
        turns[key] = number
        queue.add(("flood", f"again-{number}"))
        queue.done(key)
    return sorted(turns.get(key, number) for key in wanted)


async def test_t14_one_author_who_floods_holds_up_nobody() -> None:
    """In turns, not in seconds: ten thousand keys of one namespace, one of each of twenty others behind them."""
    quiet, flooded = WorkQueue(), WorkQueue()
    others = {(f"team-{number}", "studio") for number in range(20)}
    for number in range(10_000):
        flooded.add(("flood", f"n-{number}"))
        # A resync has them all in the second line too.
        flooded.add(("flood", f"later-{number}"), live=False)
    for queue in (quiet, flooded):
        for key in others:
            queue.add(key)
    alone, beside = await served(quiet, others), await served(flooded, others)
    p95 = int(0.95 * len(others)) - 1
    assert beside[p95] <= 2 * alone[p95]
    # The flood has one turn in each round, and the second line one of every SHARE.
    assert beside[-1] <= (len(others) + 1) * SHARE / (SHARE - 1) + 1


async def test_a_place_in_line_is_kept_found_and_left() -> None:
    line = FairLine()
    for key in (A, B, ("other", "a"), A):
        line.append(key)
    assert len(line) == 3
    assert B in line
    line.remove(B)
    assert B not in line
    assert [line.popleft() for _ in range(len(line))] == [A, ("other", "a")]
    with pytest.raises(IndexError):
        line.popleft()
    assert not line.places


async def test_what_never_ends_does_not_keep_later_waiting_for_ever() -> None:
    queue = WorkQueue()
    queue.add(A, live=False)
    served = []
    for number in range(2 * SHARE):
        queue.add(("hostile", str(number)))
        served.append(await queue.get())
    assert A in served


async def test_of_two_timers_the_first_wins() -> None:
    queue = WorkQueue()
    queue.add_after(A, 60)
    queue.add_after(A, 0.01)
    queue.add_after(A, 60)
    assert await asyncio.wait_for(queue.get(), 60) == A


async def test_failures_back_off_and_success_forgets() -> None:
    queue = WorkQueue()
    queue.retry(A)
    first = queue.timers[A].when()
    queue.timers.pop(A).cancel()
    for _ in range(5):
        queue.retry(A)
        queue.timers.pop(A).cancel()
    queue.retry(A)
    assert queue.timers[A].when() > first + 5
    queue.forget(A)
    assert A not in queue.failures
    queue.timers.pop(A).cancel()


async def test_no_failure_waits_longer_than_five_minutes() -> None:
    """But for the jitter; whoever mends the cause need not come back."""
    queue = WorkQueue()
    for _ in range(DOUBLINGS + 9):
        if A in queue.timers:
            queue.timers.pop(A).cancel()
        queue.retry(A)
    left = queue.timers.pop(A).when() - asyncio.get_running_loop().time()
    assert 0.7 * LAST_SECONDS < left < 1.3 * LAST_SECONDS
    assert LAST_SECONDS == 300
