from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zimage_worker.admission import FairQueue, RateLimit, Uploads
from zimage_worker.errors import NotReady, QueueFull, RateLimited


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
    queue, order = FairQueue(3, 60, Clock()), []

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
        queue, tasks, events, inside, refused = FairQueue(2, 60, Clock()), [], [], 0, 0

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


async def test_nobody_waits_who_could_not_be_done_in_time() -> None:
    queue, clock = FairQueue(100, 60, Clock()), Clock()
    queue.clock = clock
    release, running = asyncio.Event(), []

    async def hold(user: str, seconds: float) -> None:
        async with queue.turn(user, seconds):
            await release.wait()

    for user, seconds in (("a", 20.0), ("a", 20.0), ("a", 15.0), ("b", 10.0)):
        running.append(asyncio.create_task(hold(user, seconds)))
        await asyncio.sleep(0)
    # Before a third order of a: 20 s that run, 20 + 10 + 15 s that wait.
    assert (queue.ahead_seconds("a"), queue.ahead_seconds("b"), queue.ahead_seconds("c")) == (45, 45, 30)
    with pytest.raises(QueueFull) as caught:
        await hold("a", 5)
    assert caught.value.retry_after_seconds == 10
    clock.now = 15.0
    with pytest.raises(QueueFull):
        await hold("a", 11)
    # Round-robin: the newcomer's is before a's third.
    running.append(asyncio.create_task(hold("c", 20)))
    # Whose time nobody knows is not refused for it.
    running.append(asyncio.create_task(hold("d", 0)))
    await asyncio.sleep(0)
    assert queue.waiting_count == 5
    release.set()
    await asyncio.gather(*running)
    assert not queue.busy


async def test_everybody_hears_of_each_new_place_once() -> None:
    queue, heard, release = FairQueue(10, 60, Clock()), [], asyncio.Event()

    async def ask(user: str) -> None:
        async with queue.turn(user, 1, lambda position: heard.append((user, position))):
            await release.wait()

    tasks = []
    for user in ("x", "a", "a2", "b"):
        tasks.append(asyncio.create_task(ask(user)))
        await asyncio.sleep(0)
    assert heard == [("x", 0), ("a", 1), ("a2", 2), ("b", 3)]
    tasks[1].cancel()
    await asyncio.sleep(0.01)
    assert heard[4:] == [("a2", 1), ("b", 2)]
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert heard[6:] == [("b", 1), ("a2", 0), ("b", 0)]


@pytest.mark.parametrize("waiting", [100])
async def test_one_user_s_hundred_cost_another_the_running_job_and_one_more(waiting: int) -> None:
    queue, order, release = FairQueue(200, 1e9, Clock()), [], asyncio.Event()

    async def ask(user: str) -> None:
        async with queue.turn(user, 1):
            order.append(user)
            await release.wait()

    tasks = [asyncio.create_task(ask("greedy")) for _ in range(waiting + 1)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(ask("modest")))
    await asyncio.sleep(0)
    assert queue.ahead_seconds("third") == 2
    release.set()
    await asyncio.gather(*tasks)
    assert order.index("modest") <= 2


async def test_uploads_are_bounded_together() -> None:
    uploads = Uploads(100)
    with uploads.held(60), pytest.raises(QueueFull), uploads.held(41):
        pass
    with uploads.held(100):
        assert uploads.held_bytes == 100
    assert uploads.held_bytes == 0


async def test_at_the_end_everybody_who_waits_is_told_and_no_turn_is_handed_on() -> None:
    queue, release = FairQueue(3, 60, Clock()), asyncio.Event()

    async def ask(user: str) -> None:
        async with queue.turn(user):
            await release.wait()

    running, told, gone = (asyncio.create_task(ask(user)) for user in "abc")
    await asyncio.sleep(0)
    assert queue.waiting_count == 2
    queue.cut(NotReady("the end"))
    # Its client leaves in the same moment: it had no turn that it could pass on.
    gone.cancel()
    for task, error in ((told, NotReady), (gone, asyncio.CancelledError)):
        with pytest.raises(error):
            await task
    assert (queue.waiting_count, queue.busy) == (0, True)
    release.set()
    await running
    assert not queue.busy
