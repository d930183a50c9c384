"""The engine thread with the instant engine: what a client's leaving and a lost device do."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from zimage_worker.engines import EngineBroken
from zimage_worker.engines.fake import FakeEngine
from zimage_worker.engines.thread import EngineThread
from zimage_worker.errors import GenerationFailed, NotReady, RequestTimedOut
from zimage_worker.images import parse_order
from zimage_worker.routes.images import within
from zimage_worker.settings import Limits

ORDER = parse_order(b'{"prompt":"x","size":"16x16","steps":50}', "", Limits(256, 50, 1))


class Breaking(FakeEngine):
    """Raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def generate(self, order, seed, stop, told):
        raise self.error


def thread(folder: Path, engine: FakeEngine) -> tuple[EngineThread, threading.Event]:
    (folder / "model_index.json").write_text("{}")
    crashed = threading.Event()
    made = EngineThread(folder, lambda _told: engine, crashed.set, lambda _seconds: None)
    made.start()
    return made, crashed


async def test_the_same_seed_gives_the_same_picture(tmp_path: Path) -> None:
    made, crashed = thread(tmp_path, FakeEngine())
    first, second = await made.generate(ORDER, 3), await made.generate(ORDER, 3)
    assert first.pictures[0].image.tobytes() == second.pictures[0].image.tobytes()
    assert not crashed.is_set()


async def test_a_cancelled_run_ends_only_when_the_thread_has_ended(tmp_path: Path) -> None:
    made, _ = thread(tmp_path, FakeEngine(step_seconds=5))
    running = asyncio.create_task(made.generate(ORDER, 3))
    await asyncio.sleep(0.05)
    running.cancel()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 4)


async def test_a_request_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    made, _ = thread(tmp_path, FakeEngine(step_seconds=5))
    with pytest.raises(RequestTimedOut):
        await within(0, made.generate(ORDER, 3))


async def test_a_failed_request_is_one_client_s_misfortune(tmp_path: Path) -> None:
    made, crashed = thread(tmp_path, Breaking(RuntimeError("secret detail")))
    for _ in range(2):
        with pytest.raises(GenerationFailed) as caught:
            await made.generate(ORDER, 3)
        assert "secret" not in caught.value.message
    assert not crashed.is_set()


@pytest.mark.parametrize("error", [EngineBroken("device-side assert"), SystemExit(3)])
async def test_a_lost_device_ends_the_process_and_is_said_before(tmp_path: Path, error: BaseException) -> None:
    made, crashed = thread(tmp_path, Breaking(error))
    asked = asyncio.create_task(made.generate(ORDER, 3))
    assert await asyncio.to_thread(crashed.wait, 10)
    assert made.phase == "failed"
    assert made.problem
    with pytest.raises(GenerationFailed):
        await asyncio.wait_for(asked, 10)


async def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")

    def load(_told):
        raise OSError("weights are missing")

    made = EngineThread(tmp_path, load, lambda: None, lambda _seconds: None)
    made.start()
    while made.problem is None:
        await asyncio.sleep(0.01)
    assert made.problem.reason == "ModelLoadFailed"
    assert "weights are missing" in made.problem.message
    made.closing.set()


async def test_what_the_thread_has_not_begun_at_the_end_is_never_begun(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    loaded, asked = threading.Event(), []

    class Counted(FakeEngine):
        def generate(self, *given):
            asked.append(given)
            return super().generate(*given)

    def load(_told):
        loaded.wait(60)
        return Counted()

    made = EngineThread(tmp_path, load, lambda: None, lambda _seconds: None)
    made.start()
    waiting = asyncio.create_task(made.generate(ORDER, 3))
    await asyncio.sleep(0)
    made.cut(NotReady("the end"))
    loaded.set()
    with pytest.raises(NotReady):
        await waiting
    with pytest.raises(NotReady):
        await made.generate(ORDER, 3)
    assert asked == []
