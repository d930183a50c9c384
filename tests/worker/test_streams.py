"""Streams of the real process: what a raw reader sees, and OpenAI's own client."""

from __future__ import annotations

import base64
import io

import httpx2
import openai
import pytest
from PIL import Image

from zimage_worker import answers
from zimage_worker.errors import RequestTimedOut
from zimage_worker.images import Step


def test_a_stream_tells_queue_steps_previews_and_the_picture(worker, eventually) -> None:
    before = worker.metric('zimage_requests_total{outcome="success"}')
    told = worker.streamed(partial_images=3, progress=True, seed=5)
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
    # A stream's outcome is counted after its last byte.
    eventually(lambda: worker.metric('zimage_requests_total{outcome="success"}') == before + 2)


def test_without_progress_there_is_nothing_but_openai_s_events(worker) -> None:
    assert [name for name, _ in worker.streamed()] == ["image_generation.completed"]


def test_several_pictures_come_one_by_one(worker) -> None:
    told = worker.streamed(n=2, partial_images=1, seed=7, output_format="webp")
    assert [name.rpartition(".")[2] for name, _ in told] == ["partial_image", "completed"] * 2
    assert [content["image"] for _, content in told] == [0, 0, 1, 1]
    assert [content.get("seed") for _, content in told] == [None, 7, None, 8]
    assert {content["output_format"] for _, content in told} == {"webp"}


@pytest.mark.parametrize("progress", [False, True])
def test_openai_s_own_client_streams(worker, progress: bool) -> None:
    with worker.openai().images.generate(
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
        worker.openai().images.generate(prompt="a fox", size="17x17", stream=True)
    assert caught.value.param == "size"


def test_whoever_leaves_a_stream_frees_the_gpu(worker, events, eventually) -> None:
    made = worker.metric("zimage_images_total")
    gone = worker.metric('zimage_requests_total{outcome="disconnected"}')
    long = {"size": "256x256", "steps": 1000, "progress": True}
    with worker.streaming(**long) as answer:
        told = events(answer)
        assert [next(told)[0] for _ in range(3)] == ["zimage.queued", "zimage.progress", "zimage.progress"]
        with worker.streaming(**long) as waiting:
            # Kept: an iterator that is thrown away closes the connection.
            places = events(waiting)
            assert next(places)[1] == {"type": "zimage.queued", "position": 1}
            full = worker.generate({"stream": True})
            assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        eventually(lambda: worker.metric("zimage_requests_waiting") == 0)
    eventually(lambda: worker.metric("zimage_requests_running") == 0)
    eventually(lambda: worker.metric('zimage_requests_total{outcome="disconnected"}') == gone + 2)
    assert worker.metric("zimage_images_total") == made


def test_an_edit_that_is_left_frees_the_gpu_too(worker, events, eventually) -> None:
    made, gone = worker.metric("zimage_images_total"), worker.metric('zimage_requests_total{outcome="disconnected"}')
    out = io.BytesIO()
    Image.new("RGB", (256, 256), "navy").save(out, "PNG")
    fields = {"prompt": "x", "steps": "1000", "strength": "1", "stream": "true", "progress": "true"}
    with worker.api.stream(
        "POST", "/v1/images/edits", data=fields, files={"image": out.getvalue()}, auth=("alice", "canary-password-7f3a")
    ) as answer:
        told = events(answer)
        assert [next(told)[0] for _ in range(3)] == ["zimage.queued", "zimage.progress", "zimage.progress"]
    eventually(lambda: worker.metric("zimage_requests_running") == 0)
    eventually(lambda: worker.metric('zimage_requests_total{outcome="disconnected"}') == gone + 1)
    assert worker.metric("zimage_images_total") == made


def test_an_answer_in_the_middle_of_a_stream_reads_as_an_error_in_openai_s_client() -> None:
    error = RequestTimedOut("The request took longer than 1 s.")
    content = answers.progress(Step(0, 1, 4)) + answers.failed(error)
    transport = httpx2.MockTransport(
        lambda _request: httpx2.Response(200, content=content, headers={"Content-Type": "text/event-stream"})
    )
    api = openai.OpenAI(api_key="x", http_client=httpx2.Client(transport=transport), max_retries=0)
    told = api.images.generate(prompt="x", stream=True)
    assert next(told).type == "zimage.progress"
    with pytest.raises(openai.APIError) as caught:
        next(told)
    assert (caught.value.code, caught.value.message) == ("request_timeout", error.message)
