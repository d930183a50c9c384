"""One key once, in order, live before later."""

from __future__ import annotations

import asyncio

from zimage_operator.workqueue import SHARE, WorkQueue

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
    assert await asyncio.wait_for(queue.get(), 10) == A


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
