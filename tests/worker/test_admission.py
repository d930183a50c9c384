from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zimage_worker.admission import FairQueue, RateLimit
from zimage_worker.errors import QueueFull, RateLimited


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_a_rate() -> None:
    clock = Clock()
    limit = RateLimit(60, 2, clock)
    limit.take("a")
    limit.take("a")
    with pytest.raises(RateLimited) as caught:
        limit.take("a")
    assert caught.value.retry_after_seconds == 1
    limit.take("b")
    clock.now = 1.0
    limit.take("a")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 30)), max_size=60))
def test_nobody_gets_more_than_burst_and_rate(asks: list[tuple[str, float]]) -> None:
    clock = Clock()
    limit = RateLimit(60, 5, clock)
    got = {"a": 0, "b": 0}
    for key, wait in asks:
        clock.now += wait
        try:
            limit.take(key)
            got[key] += 1
        except RateLimited:
            pass
        assert got[key] <= 5 + clock.now + 1e-6


async def test_users_take_turns_and_the_full_queue_refuses_at_once() -> None:
    queue, order = FairQueue(3, Clock()), []

    async def ask(user: str) -> None:
        async with queue.turn(user):
            order.append(user)
            await asyncio.sleep(0)

    release = asyncio.Event()

    async def hold() -> None:
        async with queue.turn("first"):
            await release.wait()

    tasks = [asyncio.create_task(hold())]
    await asyncio.sleep(0)
    for user in ("a", "a", "b"):
        tasks.append(asyncio.create_task(ask(user)))
        await asyncio.sleep(0)
    with pytest.raises(QueueFull) as caught:
        await ask("c")
    assert caught.value.retry_after_seconds
    release.set()
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "a"]
    assert not queue.busy
    assert queue.waiting_count == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ask", "cancel", "finish", "tick"]), st.integers(0, 7)), max_size=60))
def test_whoever_leaves_whenever_no_turn_is_lost_or_doubled(script: list[tuple[str, int]]) -> None:
    async def play() -> None:
        queue, tasks, events, inside, refused = FairQueue(2, Clock()), [], [], 0, 0

        async def ask(user: str, done: asyncio.Event) -> None:
            nonlocal inside, refused
            try:
                async with queue.turn(user):
                    inside += 1
                    assert inside == 1
                    try:
                        await done.wait()
                    finally:
                        inside -= 1
            except QueueFull:
                refused += 1

        for action, number in script:
            if action == "ask":
                events.append(asyncio.Event())
                tasks.append(asyncio.create_task(ask("abc"[number % 3], events[-1])))
            elif action == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            elif action == "finish" and events:
                events[number % len(events)].set()
            else:
                await asyncio.sleep(0)
            assert queue.waiting_count <= 2
        for event in events:
            event.set()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert (queue.busy, queue.waiting_count, inside) == (False, 0, 0)

    asyncio.run(play())
