"""Prompts of every kind, and the official client's typed errors and metrics, against the real process."""

from __future__ import annotations

import base64
import io

import openai
import pytest
from PIL import Image

SCRIPTS = [
    "a red fox", "一只红色的狐狸", "赤い狐", "붉은 여우", "рыжая лиса", "κόκκινη αλεπού", "ثعلب أحمر", "שועל אדום",
    "लाल लोमड़ी", "লাল শিয়াল", "சிவப்பு நரி", "ఎర్ర నక్క", "ಕೆಂಪು ನರಿ", "ചുവന്ന കുറുക്കൻ", "สุนัขจิ้งจอกสีแดง", "ລາວ ໝາ",
    "မြေခွေး", "កញ្ជ្រោង", "წითელი მელა", "կարմիր աղվես", "ቀይ ቀበሮ", "ལྭ་དམར", "ᏣᎳᎩ", "𐌰𐌱𐌲", "𓀀𓁐",
]  # fmt: skip
ODD = [
    "".join(chr(code) for code in range(1, 32)) + "fox", "\x7f\x80\x9ffox", "\u202efox\u202c \u200f\u200e\u2066",
    "🦊👩‍👩‍👧‍👦🏳️‍🌈",
    "\ufeff\ufffe\uffff\u0000"[:3] + "x", "x" + "\u0301" * 500, "<|im_start|>system\nx<|im_end|>",
    "{{ 7 * 7 }}{% raw %}",
    "${jndi:ldap://x}", "'; DROP TABLE images; --", "\r\nSet-Cookie: a=b", "fox\n\n\n", "\u200b", "𝔣𝔬𝔵" * 50,
]  # fmt: skip


# Blanks alone, NUL, and more tokens than the model reads (the tiny one's are bytes).
REFUSED = ["\u00a0", "\u3000\t", "fox\u0000", "𝔣𝔬𝔵" * 100]


@pytest.mark.parametrize("text", ODD)
def test_any_text_is_a_prompt(worker, text: str) -> None:
    answer = worker.generate({"prompt": text, "negative_prompt": text, "guidance_scale": 1})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["input_tokens_details"]["text_tokens"] > 0


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_text_is_refused_by_name(worker, text: str) -> None:
    answer = worker.generate({"prompt": text})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("script", SCRIPTS)
def test_twenty_scripts_are_all_prompts(worker, script: str) -> None:
    assert worker.generate({"prompt": script}).status_code == 200


@pytest.mark.parametrize(
    ("text", "status"),
    [("", 400), (" \n", 400), ("\u2028", 400), ("x" * 100_000, 413), ("x" * 2001, 400), ("é" * 2000, 400)],
)  # fmt: skip
def test_no_length_is_a_500(worker, text: str, status: int) -> None:
    plain, streamed = worker.generate({"prompt": text}), worker.generate({"prompt": text, "stream": True})
    assert (plain.status_code, streamed.status_code) == (status, status)
    if status == 400:
        assert plain.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_openai_s_client_gets_every_format(worker, kind: str) -> None:
    compression = {} if kind == "png" else {"output_compression": 30}
    made = worker.openai().images.generate(
        prompt="a fox", model="z-image", size="64x96", n=2, output_format=kind, quality="auto", background="opaque",
        user="u", extra_body={"steps": 2, "seed": 9, "guidance_scale": 2.5, "negative_prompt": "blue"}, **compression,
    )  # fmt: skip
    images = [Image.open(io.BytesIO(base64.b64decode(each.b64_json))) for each in made.data]
    assert [(each.format, each.size) for each in images] == [(kind.upper(), (64, 96))] * 2
    assert made.usage.output_tokens == made.usage.output_tokens_details.image_tokens == 2 * 24
    assert made.usage.total_tokens == made.usage.input_tokens + 48
    assert made.usage.input_tokens == made.usage.input_tokens_details.text_tokens > 10


def test_openai_s_client_and_auto(worker) -> None:
    made = worker.openai().images.generate(prompt="a fox", size="auto", extra_body={"steps": 1})
    assert made.size == "256x256"
    with Image.open(io.BytesIO(base64.b64decode(made.data[0].b64_json))) as image:
        assert image.size == (256, 256)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_output_compression_is_what_the_file_has(worker, kind: str) -> None:
    def size(compression: int) -> int:
        made = worker.openai().images.generate(
            prompt="a fox", size="96x96", output_format=kind, output_compression=compression,
            extra_body={"steps": 1, "seed": 3},
        )  # fmt: skip
        return len(made.data[0].b64_json)

    assert size(5) < size(60) < size(100)


EXTENSIONS = [{"seed": 10}, {"steps": 2}, {"guidance_scale": 3.0}, {"guidance_scale": 3.0, "negative_prompt": "x"}]


def test_each_extension_changes_the_picture_and_nothing_else_does(worker) -> None:
    def made(more: dict[str, object]) -> str:
        body = {"steps": 1, "seed": 9, **more}
        return worker.openai().images.generate(prompt="a fox", size="64x64", extra_body=body).data[0].b64_json

    pictures = [made(each) for each in ({}, *EXTENSIONS)]
    assert len(set(pictures)) == len(pictures)
    assert made({}) == pictures[0]


@pytest.mark.parametrize(
    ("options", "kind", "param"),
    [
        ({"size": "17x17"}, openai.BadRequestError, "size"), ({"n": 99}, openai.BadRequestError, "n"),
        ({"output_format": "gif"}, openai.BadRequestError, "output_format"),
        ({"background": "transparent"}, openai.BadRequestError, "background"),
        ({"model": "dall-e-3"}, openai.NotFoundError, "model"),
        ({"extra_body": {"sede": 1}}, openai.BadRequestError, "sede"),
        ({"extra_body": {"steps": 0}}, openai.BadRequestError, "steps"),
        ({"stream": True, "partial_images": 9}, openai.BadRequestError, "partial_images"),
        ({"extra_headers": {"Authorization": "Basic eDp5"}}, openai.AuthenticationError, None),
    ],
)  # fmt: skip
def test_openai_s_client_raises_the_right_type_and_names_the_parameter(worker, options, kind, param) -> None:
    with pytest.raises(kind) as caught:
        worker.openai(**{"X-Forwarded-For": "203.0.113.77"}).images.generate(prompt="a fox", **options)
    assert caught.value.param == param
    assert caught.value.code
    assert caught.value.type


def test_openai_s_client_is_told_when_to_come_back(worker, eventually) -> None:
    long = {"size": "256x256", "steps": 1000}
    with worker.streaming(**long) as first, worker.streaming(**long) as second:
        assert (first.status_code, second.status_code) == (200, 200)
        with pytest.raises(openai.RateLimitError) as caught:
            worker.openai().images.generate(prompt="a fox", size="64x64")
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["retry-after"]) >= 1
    eventually(lambda: worker.metric("zimage_requests_running") == 0)


def test_the_metrics_of_a_request(worker, eventually) -> None:
    names = [
        'zimage_requests_total{outcome="success"}', "zimage_images_total", "zimage_pixels_total",
        "zimage_queue_seconds_count", "zimage_generation_seconds_count", "zimage_step_seconds_count",
        "zimage_decode_seconds_count", "zimage_encode_seconds_count", 'zimage_embedding_cache_total{result="hit"}',
        'zimage_embedding_cache_total{result="miss"}', 'zimage_oom_rungs_total{rung="refused"}',
    ]  # fmt: skip

    def read() -> list[float]:
        lines = worker.management.get("/metrics").text.splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return [float(found[name]) for name in names]

    def grown(since: list[float]) -> list[float]:
        return [after - before for before, after in zip(since, read(), strict=True)]

    body = {"prompt": "a prompt of its own 83", "steps": 3, "n": 2}
    before = read()
    assert worker.generate(body).status_code == 200
    assert grown(before) == [1, 2, 2 * 64 * 64, 1, 1, 6, 1, 2, 1, 1, 0]
    before = read()
    assert worker.generate({**body, "stream": True}).status_code == 200
    # A stream's outcome is counted after its last byte.
    eventually(lambda: grown(before)[0] == 1)
    assert grown(before) == [1, 2, 2 * 64 * 64, 1, 1, 6, 1, 2, 2, 0, 0]
