"""Streams of the real process: what a raw reader sees, and OpenAI's own client."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from PIL import Image

AUTH = ("alice", "canary-password-7f3a")
SMALL = {"prompt": "a red fox", "size": "64x64", "steps": 4, "stream": True}


def events(answer: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """As a browser reads them: comments are skipped."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def stream(worker: Any, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    with worker.api.stream("POST", "/v1/images/generations", json={**SMALL, **body}, auth=AUTH) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-accel-buffering"] == "no"
        return list(events(answer))


def client(worker: Any) -> openai.OpenAI:
    secret = base64.b64encode(":".join(AUTH).encode()).decode()
    return openai.OpenAI(
        base_url=f"http://127.0.0.1:{worker.port}/v1", api_key="x", max_retries=0,
        default_headers={"Authorization": f"Basic {secret}"},
    )  # fmt: skip


def test_a_stream_tells_queue_steps_previews_and_the_picture(worker) -> None:
    before = worker.metric('zimage_requests_total{outcome="success"}')
    told = stream(worker, partial_images=3, progress=True, seed=5)
    assert [name for name, _ in told] == [
        "zimage.queued",
        "image_generation.partial_image", "zimage.progress", "image_generation.partial_image", "zimage.progress",
        "image_generation.partial_image", "zimage.progress", "zimage.progress",
        "image_generation.completed",
    ]  # fmt: skip
    assert all(name == content["type"] for name, content in told)
    assert told[0][1]["position"] == 0
    assert [c["step"] for n, c in told if n == "zimage.progress"] == [1, 2, 3, 4]
    partials = [c for n, c in told if n.endswith("partial_image")]
    assert [c["partial_image_index"] for c in partials] == [0, 1, 2]
    assert {Image.open(io.BytesIO(base64.b64decode(c["b64_json"]))).size for c in partials} == {(64, 64)}
    plain = worker.generate({"seed": 5, "steps": 4}).json()["data"][0]
    assert told[-1][1]["b64_json"] == plain["b64_json"]
    assert told[-1][1]["seed"] == 5
    assert worker.metric('zimage_requests_total{outcome="success"}') == before + 2


def test_without_progress_there_is_nothing_but_openai_s_events(worker) -> None:
    assert [name for name, _ in stream(worker)] == ["image_generation.completed"]


def test_several_pictures_come_one_by_one(worker) -> None:
    told = stream(worker, n=2, partial_images=1, seed=7, output_format="webp")
    assert [name.rpartition(".")[2] for name, _ in told] == ["partial_image", "completed"] * 2
    assert [content["image"] for _, content in told] == [0, 0, 1, 1]
    assert [content.get("seed") for _, content in told] == [None, 7, None, 8]
    assert {content["output_format"] for _, content in told} == {"webp"}


@pytest.mark.parametrize("progress", [False, True])
def test_openai_s_own_client_streams(worker, progress: bool) -> None:
    with client(worker).images.generate(
        prompt="a fox", size="64x64", stream=True, partial_images=2, output_format="jpeg", output_compression=80,
        extra_body={"steps": 4, "seed": 3, "progress": progress},
    ) as told:  # fmt: skip
        got = list(told)
    kinds = [each.type for each in got if not each.type.startswith("zimage.")]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert (len(got) > len(kinds)) == progress
    assert base64.b64decode(got[-1].b64_json).startswith(b"\xff\xd8")
    assert got[-1].usage.output_tokens == 16


def test_a_refusal_is_a_status_and_not_an_event(worker) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client(worker).images.generate(prompt="a fox", size="17x17", stream=True)
    assert caught.value.param == "size"


def test_whoever_leaves_a_stream_frees_the_gpu(worker, eventually) -> None:
    made = worker.metric("zimage_images_total")
    gone = worker.metric('zimage_requests_total{outcome="disconnected"}')
    body = {**SMALL, "size": "256x256", "steps": 1000, "progress": True}
    with worker.api.stream("POST", "/v1/images/generations", json=body, auth=AUTH) as answer:
        told = events(answer)
        assert [next(told)[0] for _ in range(3)] == ["zimage.queued", "zimage.progress", "zimage.progress"]
        with worker.api.stream("POST", "/v1/images/generations", json=body, auth=AUTH) as waiting:
            # Kept: an iterator that is thrown away closes the connection.
            places = events(waiting)
            assert next(places)[1] == {"type": "zimage.queued", "position": 1}
            full = worker.generate({"stream": True})
            assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        eventually(lambda: worker.metric("zimage_requests_waiting") == 0)
    eventually(lambda: worker.metric("zimage_requests_running") == 0)
    eventually(lambda: worker.metric('zimage_requests_total{outcome="disconnected"}') == gone + 2)
    assert worker.metric("zimage_images_total") == made
