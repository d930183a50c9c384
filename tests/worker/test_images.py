from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zimage_worker.errors import BadRequest, NotFound, WorkerError
from zimage_worker.images import parse_order, partial_steps
from zimage_worker.settings import Limits

LIMITS = Limits(max_pixels=1024 * 1024, max_steps=50, max_images=4)

# (body, the parameter that the refusal names)
BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None), (b"{", None), (b"[]", None), (b'"x"', None), (b"null", None), (b"\xff\xfe{}", None),
    (b'{"prompt": NaN}', None), (b'{"prompt":"x","seed":' + b"9" * 5000 + b"}", None), (b"[" * 30_000, None),
    (b'{"prompt":' + b"[" * 20_000 + b"]" * 20_000 + b"}", None),
]  # fmt: skip
BAD_FIELDS: list[tuple[dict[str, object], str]] = [
    ({"prompt": None}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": " "}, "prompt"), ({"prompt": 5}, "prompt"),
    ({"prompt": "x" * 2001}, "prompt"), ({"prompt": "a\0b"}, "prompt"), ({"prompt": "\ud800"}, "prompt"),
    ({"size": "17x17"}, "size"), ({"size": "0x64"}, "size"), ({"size": "64"}, "size"), ({"size": 64}, "size"),
    ({"size": "2048x2048"}, "size"),
    ({"size": "8208x16"}, "size"), ({"size": "64x64\n"}, "size"),
    ({"size": "٦٤x64"}, "size"), ({"steps": 0}, "steps"), ({"steps": 51}, "steps"), ({"steps": True}, "steps"),
    ({"steps": 1.5}, "steps"), ({"steps": "8"}, "steps"), ({"n": 0}, "n"), ({"n": 5}, "n"), ({"n": False}, "n"),
    ({"seed": -1}, "seed"), ({"seed": 2**63}, "seed"), ({"seed": 10**400}, "seed"), ({"seed": True}, "seed"),
    ({"guidance_scale": -0.1}, "guidance_scale"), ({"guidance_scale": 10**400}, "guidance_scale"),
    ({"guidance_scale": True}, "guidance_scale"), ({"guidance_scale": "1"}, "guidance_scale"),
    ({"guidance_scale": 1e999}, "guidance_scale"), ({"negative_prompt": 1}, "negative_prompt"),
    ({"output_format": "gif"}, "output_format"), ({"output_format": []}, "output_format"),
    ({"output_compression": 101}, "output_compression"), ({"output_compression": 50}, "output_compression"),
    ({"response_format": "url"}, "response_format"),
    ({"model": "gpt-image-1"}, "model"), ({"stream": 1}, "stream"), ({"stream": "true"}, "stream"),
    ({"stream": True, "partial_images": 4}, "partial_images"), ({"partial_images": 1}, "partial_images"),
    ({"stream": True, "partial_images": True}, "partial_images"), ({"progress": True}, "progress"),
    ({"stream": True, "progress": "yes"}, "progress"),
    ({"quality": "ultra"}, "quality"), ({"background": "transparent"}, "background"), ({"user": 1}, "user"),
    ({"sede": 4}, "sede"),
]  # fmt: skip


def parse(accept: str = "", **fields: object):
    return parse_order(json.dumps({"prompt": "a fox", **fields}).encode(), accept, LIMITS)


def test_defaults() -> None:
    order = parse()
    assert (order.size, order.images, order.steps, order.guidance_scale) == ("1024x1024", 1, 8, 0.0)
    assert (order.seed, order.format, order.bare) == (None, "png", False)


def test_what_openai_s_clients_send_beside_it() -> None:
    order = parse(
        model="Z-Image-Turbo",
        n=2,
        quality="high",
        background="auto",
        moderation="low",
        style=None,
        user="u",
        stream=False,
        response_format="b64_json",
        output_format="webp",
        output_compression=50,
    )
    assert (order.images, order.format, order.compression) == (2, "webp", 50)


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS)
def test_a_refusal_names_the_parameter(fields: dict[str, object], param: str) -> None:
    body = json.dumps({"prompt": "a fox", **fields}).replace("Infinity", "1e999").encode()
    with pytest.raises((BadRequest, NotFound)) as caught:
        parse_order(body, "", LIMITS)
    assert caught.value.param == param


@pytest.mark.parametrize(("body", "_param"), BAD_BODIES)
def test_a_body_that_is_no_object(body: bytes, _param: str | None) -> None:
    with pytest.raises(BadRequest):
        parse_order(body, "", LIMITS)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(["prompt", "size", "n", "seed", "steps", "model", "x"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=2),
    max_leaves=3)))  # fmt: skip
def test_nothing_but_an_order_or_a_refusal(raw: dict[str, object]) -> None:
    try:
        order = parse_order(json.dumps(raw).encode(), "image/*", LIMITS)
    except WorkerError as error:
        refused = error.status
        assert refused in {400, 404}
    else:
        assert order.width_px * order.height_px <= LIMITS.max_pixels


def test_the_accept_header_asks_for_the_bare_image() -> None:
    assert parse("image/png").bare
    assert parse("image/webp, */*").format == "webp"
    assert parse("image/*", output_format="jpeg").format == "jpeg"
    assert not parse("*/*").bare
    assert not parse("application/json, image/png").bare
    with pytest.raises(BadRequest):
        parse("image/png", output_format="jpeg")
    with pytest.raises(BadRequest):
        parse("image/png", n=2)


def test_auto_fits_the_limit() -> None:
    assert parse_order(b'{"prompt":"x"}', "", LIMITS).size == "1024x1024"
    assert parse_order(b'{"prompt":"x"}', "", Limits(300 * 300, 1, 1)).size == "288x288"


@pytest.mark.parametrize(
    ("partial_images", "steps", "after"),
    [(0, 8, []), (1, 8, [4]), (2, 8, [3, 5]), (3, 8, [2, 4, 6]), (3, 1, []), (3, 2, [1]), (3, 1000, [250, 500, 750])],
)
def test_previews_are_spread_over_the_steps(partial_images: int, steps: int, after: list[int]) -> None:
    assert partial_steps(partial_images, steps) == after


def test_a_bare_image_cannot_be_streamed() -> None:
    with pytest.raises(BadRequest) as caught:
        parse("image/png", stream=True)
    assert caught.value.param == "stream"
    assert parse("text/event-stream", stream=True, partial_images=2).partial_images == 2
