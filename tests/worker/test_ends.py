"""How work ends in the real process: by clients who leave, by a drain, by a lack of memory, by a lost device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt
import pytest

AUTH = ("alice", "canary-password-7f3a")
INJECTED = str(Path(__file__).with_name("injected.py"))


def test_memory_runs_out_by_rungs_and_then_the_device_is_lost(make_worker, tiny_model) -> None:
    made = make_worker(tiny_model, [INJECTED, "real"]).ready()
    assert made.generate({"prompt": "oom-once"}).status_code == 200
    assert made.metric('zimage_oom_rungs_total{rung="retry"}') == 1
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
    (name, told) = made.streamed(prompt="illegal")[-1]
    assert (name, told["error"]["code"]) == ("error", "generation_failed")
    assert "illegal" not in told["error"]["message"]
    assert made.process.wait(60) == 1
    assert "the engine thread died" in made.logs()


@pytest.mark.parametrize(("prompt", "why"), [("stall", "made no step for too long"), ("die", "engine thread died")])
def test_an_engine_that_hangs_or_dies_ends_the_process(make_worker, tiny_model, prompt: str, why: str) -> None:
    made = make_worker(tiny_model, [INJECTED, "fake"], ZIMAGE_STALL_SECONDS="2").ready()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(made.streamed, prompt=prompt)
        (name, told) = running.result(60)[-1]
    assert (name, told["error"]["code"]) == ("error", "generation_failed")
    assert made.process.wait(60) == 1
    assert why in made.logs()


def test_one_user_s_hundred_then_a_drain_with_open_streams(make_worker, tiny_model, eventually) -> None:
    made = make_worker(tiny_model, ZIMAGE_QUEUE_LENGTH="100")
    line = f"bob:{bcrypt.hashpw(b'fresh-canary', bcrypt.gensalt(4)).decode()}\n"
    made.htpasswd.write_text(made.htpasswd.read_text() + line)
    made.ready()
    finished: list[str] = []

    def ask(user: str, password: str) -> int:
        body = {"prompt": "a red fox", "size": "96x96", "steps": 8}
        # No patience of the client's own: on a busy machine the last one waits for minutes.
        answer = made.generate(json=body, auth=(user, password), timeout=280)
        finished.append(user)
        return answer.status_code

    assert made.generate(auth=("bob", "fresh-canary")).status_code == 200
    with ThreadPoolExecutor(60) as pool:
        greedy = [pool.submit(ask, *AUTH) for _ in range(50)]
        eventually(lambda: made.metric("zimage_requests_waiting") >= 30)
        before = len(finished)
        modest = pool.submit(ask, "bob", "fresh-canary")
        assert modest.result() == 200
        # The running one, one of the greedy user's, and what ended while bob's request was on its way here.
        assert finished.index("bob") - before <= 5
        assert [each.result() for each in greedy] == [200] * 50
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
