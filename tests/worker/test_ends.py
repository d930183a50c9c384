"""How work ends in the real process: by clients who leave, by a drain, by a lack of memory, by a lost device."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest

AUTH = ("alice", "canary-password-7f3a")
# So many orders of one user wait when another's comes.
GREEDY = 100
INJECTED = str(Path(__file__).with_name("injected.py"))


def failure(made, events, **body) -> dict[str, Any]:
    """How a stream failed: by its last event, or by its status where that came before the first one."""
    with made.streaming(**body) as answer:
        if answer.status_code != 200:
            return json.loads(answer.read())["error"]
        name, told = list(events(answer))[-1]
    assert name == "error"
    return told["error"]


def test_memory_runs_out_by_rungs_and_then_the_device_is_lost(make_worker, tiny_model, events) -> None:
    made = make_worker(tiny_model, [INJECTED, "real"]).ready()
    assert made.generate({"prompt": "oom-once"}).status_code == 200
    assert made.metric('zimage_oom_rungs_total{rung="retry"}') == 1
    assert made.generate({"prompt": "oom-decode"}).status_code == 200
    rungs = [made.metric(f'zimage_oom_rungs_total{{rung="{rung}"}}') for rung in ("retry", "tiled", "refused")]
    assert rungs == [1, 1, 0]
    large = {"size": "128x128"}
    refused = made.generate({"prompt": "oom", **large})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (503, "out_of_memory", "size")
    assert int(refused.headers["retry-after"]) > 1
    assert made.metric('zimage_oom_rungs_total{rung="refused"}') == 1
    # Not tried again, and smaller ones are served.
    assert made.generate(large).json()["error"]["code"] == "out_of_memory"
    assert made.metric('zimage_oom_rungs_total{rung="retry"}') == 2
    assert made.generate().status_code == 200
    assert made.metric('zimage_requests_total{outcome="out_of_memory"}') == 2
    error = failure(made, events, prompt="illegal")
    assert error["code"] == "generation_failed"
    assert "illegal" not in error["message"]
    assert made.process.wait(60) == 1
    assert "the engine thread died" in made.logs()


@pytest.mark.parametrize(("prompt", "why"), [("stall", "made no step for too long"), ("die", "engine thread died")])
def test_an_engine_that_hangs_or_dies_ends_the_process(make_worker, tiny_model, events, prompt: str, why: str) -> None:
    made = make_worker(tiny_model, [INJECTED, "fake"], ZIMAGE_STALL_SECONDS="2").ready()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(failure, made, events, prompt=prompt)
        assert running.result(60)["code"] == "generation_failed"
    assert made.process.wait(60) == 1
    assert why in made.logs()


def test_one_user_s_hundred_then_a_drain_with_open_streams(make_worker, tiny_model, eventually) -> None:
    made = make_worker(
        tiny_model, ZIMAGE_QUEUE_LENGTH=str(GREEDY + 1), ZIMAGE_MAX_PIXELS=str(512 * 512),
        ZIMAGE_REQUEST_TIMEOUT_SECONDS="3600",
    )  # fmt: skip
    line = f"bob:{bcrypt.hashpw(b'fresh-canary', bcrypt.gensalt(4)).decode()}\n"
    made.htpasswd.write_text(made.htpasswd.read_text() + line)
    made.ready()
    finished: list[str] = []

    # No patience and no bound of the client's own: on a busy machine the last one waits for minutes.
    many = httpx.Client(base_url=made.api.base_url, timeout=280, limits=httpx.Limits())

    def ask(user: str, password: str) -> int:
        body = {"prompt": "a red fox", "size": "64x64", "steps": 4}
        answer = many.post("/v1/images/generations", json=body, auth=(user, password))
        finished.append(user)
        return answer.status_code

    assert made.generate(auth=("bob", "fresh-canary")).status_code == 200
    with many, ThreadPoolExecutor(GREEDY + 1) as pool:
        # Holds the GPU until everybody waits, and is left.
        with made.streaming(size="512x512", steps=1000):
            greedy = [pool.submit(ask, *AUTH) for _ in range(GREEDY)]
            eventually(lambda: made.metric("zimage_requests_waiting") == GREEDY)
            modest = pool.submit(ask, "bob", "fresh-canary")
            eventually(lambda: made.metric("zimage_requests_waiting") == GREEDY + 1)
        assert modest.result() == 200
        # One of the greedy user's goes before; a few more may end while bob's answer is on its way here.
        assert finished.index("bob") <= 4
        assert [each.result() for each in greedy] == [200] * GREEDY
    with ThreadPoolExecutor(4) as pool:
        body = {"steps": 300, "size": "256x256"}
        streams = [pool.submit(made.streamed, **body) for _ in range(2)]
        eventually(lambda: made.metric("zimage_requests_waiting") == 1)
        made.process.terminate()
        eventually(lambda: made.management.get("/health/ready").status_code == 503)
        for late in (made.generate(), made.generate({"stream": True})):
            assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
            assert int(late.headers["retry-after"]) >= 1
        assert [each.result()[-1][0] for each in streams] == ["image_generation.completed"] * 2
    assert made.process.wait(60) == 0


def test_the_end_of_the_drain_time_is_told_to_everybody(make_worker, tiny_model, eventually) -> None:
    made = make_worker(tiny_model, ZIMAGE_DRAIN_SECONDS="1").ready()
    long = {"steps": 1000, "size": "256x256"}
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(made.streamed, **long)
        eventually(lambda: made.metric("zimage_requests_running") == 1)
        waiting = pool.submit(made.streamed, **long)
        eventually(lambda: made.metric("zimage_requests_waiting") == 1)
        plain = pool.submit(made.generate, long)
        eventually(lambda: made.metric("zimage_requests_waiting") == 2)
        made.process.terminate()
        for stream in (running, waiting):
            name, told = stream.result()[-1]
            assert (name, told["error"]["code"]) == ("error", "draining")
        answer = plain.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert int(answer.headers["retry-after"]) >= 1
    assert made.process.wait(60) == 0
    assert "Traceback" not in made.logs()
    assert "died" not in made.logs()
