"""What goes back to the client, in OpenAI's shapes: one JSON object, or Server-Sent Events. Pure.

The two `zimage.` events are ours and are sent only to those who ask for `progress`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from .errors import WorkerError
from .images import MODEL_ID, SIDE_STEP_PX, ImageOrder, Moved, Picture, Step

# Sent while nothing happens: proxies cut what is silent for a minute.
KEEP_ALIVE = b": keep-alive\n\n"


def base64_text(content: bytes) -> str:
    """As JSON carries bytes."""
    return base64.b64encode(content).decode("ascii")


def answer(order: ImageOrder, pictures: list[tuple[Picture, bytes]], created: int, tokens: int) -> dict[str, Any]:
    """OpenAI's answer, with the seed of each image beside it. `created` in seconds since 1970."""
    return {
        "created": created,
        "background": "opaque",
        "output_format": order.format,
        "size": order.size,
        "steps": order.steps,
        "model": MODEL_ID,
        "data": [{"b64_json": base64_text(content), "seed": picture.seed} for picture, content in pictures],
        "usage": usage(order, len(pictures), tokens),
    }


def event(name: str, content: dict[str, Any]) -> bytes:
    """One Server-Sent Event."""
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()


def picture_event(name: str, order: ImageOrder, content: bytes, created: int) -> dict[str, Any]:
    """What partial and finished pictures have in common."""
    return {
        "type": name,
        "b64_json": base64_text(content),
        "created_at": created,
        "size": order.size,
        "quality": "auto",
        "background": "opaque",
        "output_format": order.format,
    }


def partial(order: ImageOrder, step: Step, content: bytes, created: int) -> bytes:
    """A preview."""
    name = f"{order.events}.partial_image"
    shown = picture_event(name, order, content, created)
    return event(name, shown | {"partial_image_index": step.partial, "image": step.image})


def completed(
    order: ImageOrder, number: int, picture: Picture, content: bytes, created: int, used: dict[str, Any]
) -> bytes:
    """A finished picture; one event for each, in order."""
    name = f"{order.events}.completed"
    shown = picture_event(name, order, content, created)
    extra = {"image": number, "seed": picture.seed, "steps": order.steps, "model": MODEL_ID}
    return event(name, shown | extra | {"usage": used})


def usage(order: ImageOrder, images: int, text_tokens: int | None) -> dict[str, Any]:
    """What was read and made. A token of text is the text encoder's, a token of picture 16 x 16 px.

    `text_tokens` is None where the input has been counted already, with an earlier picture of the order.
    """
    patches = order.width_px * order.height_px // SIDE_STEP_PX**2
    seen = 0 if text_tokens is None or order.edit is None else patches
    made, read = patches * images, text_tokens or 0
    return {
        "input_tokens": read + seen,
        "output_tokens": made,
        "total_tokens": read + seen + made,
        "input_tokens_details": {"text_tokens": read, "image_tokens": seen},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": made},
    }


def queued(moved: Moved) -> bytes:
    """A new place in the queue: 1 is next, 0 has the GPU."""
    return event("zimage.queued", {"type": "zimage.queued", "position": moved.position})


def progress(step: Step) -> bytes:
    """One step of image `image` (from 0) is done."""
    name = "zimage.progress"
    return event(name, {"type": name, "step": step.step, "steps": step.steps, "image": step.image})


def failed(error: WorkerError) -> bytes:
    """After the status line there is no other way to say it."""
    return event("error", {"type": "error"} | error.body())
