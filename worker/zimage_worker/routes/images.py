"""The straight line: request → caller → order → turn → pictures → bytes → answer."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.metadata import version
from typing import TypeVar

from fastapi import APIRouter, Request, Response

from .. import __version__
from ..answers import answer
from ..auth import Caller
from ..dependencies import ClientGone, Parts, TheCaller, TheParts, while_connected
from ..engines import Made
from ..errors import RequestTimedOut, UnsupportedMediaType, WorkerError
from ..images import MODEL_ID, SEED_MAX, ImageOrder, Moved, Picture, Progress, parse_order
from .streams import EventStream, Running, admitted
from .uploads import uploaded

router = APIRouter()
T = TypeVar("T")
Listener = Callable[[Progress], None]


@router.post("/v1/images/generations", response_class=Response)
async def generate_images(request: Request, caller: TheCaller, parts: TheParts) -> Response:
    """Make images as the OpenAI Images API does.

    Raises:
        WorkerError: refused or failed; errors.py says which status.
    """
    with Outcome(parts) as outcome:
        return await served(request, await ordered(request, parts), caller, outcome)


@router.post("/v1/images/edits", response_class=Response)
async def edit_images(request: Request, caller: TheCaller, parts: TheParts) -> Response:
    """Change an image, all of it or inside a mask, as the OpenAI Images API does.

    Raises:
        WorkerError: refused or failed; errors.py says which status.
    """
    with Outcome(parts) as outcome:
        parts.state.ensure_serving()
        return await served(request, await uploaded(request, parts), caller, outcome)


async def served(request: Request, order: ImageOrder, caller: Caller, outcome: Outcome) -> Response:
    """An order, answered at once or event by event.

    Raises:
        WorkerError: refused, or failed before the first event.
    """
    parts = outcome.parts
    parts.state.ensure_serving()
    tokens = parts.engine.weigh(order)
    if order.stream:
        return await streamed(request, order, caller, tokens, outcome)
    work = within(parts.settings.request_timeout_seconds, answered(order, caller, tokens, parts))
    return await while_connected(request, work)


async def ordered(request: Request, parts: Parts) -> ImageOrder:
    """The body, parsed; it was read and bounded before anybody was asked for credentials."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType("Send the body as Content-Type: application/json.", param="content-type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Send the body uncompressed.", param="content-encoding")
    return parse_order(await request.body(), request.headers.get("accept", ""), parts.settings.limits)


async def answered(order: ImageOrder, caller: Caller, tokens: int, parts: Parts) -> Response:
    """Wait for the turn, make, encode, answer."""
    made = await generated(order, caller, parts)
    facts = described(order, parts)
    encoded = [(picture, await parts.encoder.encode(picture, order, facts)) for picture in made.pictures]
    return bare_answer(order, *encoded[0]) if order.bare else json_answer(order, encoded, tokens)


async def streamed(request: Request, order: ImageOrder, caller: Caller, tokens: int, outcome: Outcome) -> Response:
    """The same, told event by event as it goes; refused before the first of them.

    Raises:
        WorkerError: refused; what fails later is told as an event.
    """
    parts = outcome.parts
    limit = parts.settings.request_timeout_seconds
    running = Running(lambda told: within(limit, generated(order, caller, parts, told)))
    await admitted(request, running)
    outcome.open = True
    return EventStream(running, order, tokens, parts, described(order, parts), outcome.count)


async def generated(order: ImageOrder, caller: Caller, parts: Parts, told: Listener | None = None) -> Made:
    """Wait for the turn and make the pictures; `told` hears of places, steps and pictures."""
    seed = order.seed if order.seed is not None else secrets.randbelow(SEED_MAX - order.images + 1)
    moved = None if told is None else lambda position: told(Moved(position))
    asked = time.monotonic()
    async with parts.queue.turn(caller.user or caller.address, parts.engine.pace.seconds(order), moved):
        began = time.monotonic()
        parts.metrics.queue_seconds.observe(began - asked)
        made = await parts.engine.generate(order, seed, told)
        count(made, order, time.monotonic() - began, parts)
    return made


async def within(seconds: int, work: Awaitable[T]) -> T:
    """Waiting and running together may take so long.

    Raises:
        RequestTimedOut: they took longer.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise RequestTimedOut(f"The request took longer than {seconds} s.") from None


def described(order: ImageOrder, parts: Parts) -> dict[str, str]:
    """What a PNG says about itself, so that it can be made again. Never the prompt."""
    return {
        "steps": str(order.steps),
        "size": order.size,
        "guidance_scale": f"{order.guidance_scale:g}",
        "model": MODEL_ID,
        "model_revision": parts.settings.model_revision,
        "software": software(),
    }


@cache
def software() -> str:
    """All that decides about the bytes of a picture, with versions."""
    return f"zimage-worker {__version__}, diffusers {version('diffusers')}, torch {version('torch')}"


def count(made: Made, order: ImageOrder, seconds: float, parts: Parts) -> None:
    """Into the metrics."""
    parts.metrics.generation_seconds.observe(seconds)
    parts.metrics.decode_seconds.observe(made.decode_seconds)
    for step_seconds in made.steps_seconds:
        parts.metrics.step_seconds.observe(step_seconds)
    parts.metrics.images.inc(len(made.pictures))
    parts.metrics.pixels.inc(len(made.pictures) * order.width_px * order.height_px)


def bare_answer(order: ImageOrder, picture: Picture, content: bytes) -> Response:
    """The image itself, its seed in a header."""
    headers = {
        "X-Seed": str(picture.seed),
        "X-Steps": str(order.steps),
        "Content-Disposition": f'inline; filename="zimage-{picture.seed}.{order.format}"',
    }
    return Response(content, media_type=f"image/{order.format}", headers=headers)


def json_answer(order: ImageOrder, encoded: list[tuple[Picture, bytes]], tokens: int) -> Response:
    """OpenAI's answer."""
    body = answer(order, encoded, int(time.time()), tokens)
    return Response(json.dumps(body), media_type="application/json")


class Outcome:
    """Counts how a request ended, whichever way it did."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        # Set when a stream takes over and counts at its own end.
        self.open = False

    def __enter__(self) -> Outcome:
        """Nothing is known yet."""
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """The error goes on its way."""
        if error is not None or not self.open:
            self.count(error)

    def count(self, error: BaseException | None) -> None:
        """By the error's code."""
        if error is None:
            outcome = "success"
        elif isinstance(error, WorkerError):
            outcome = error.code
        else:
            outcome = "disconnected" if isinstance(error, ClientGone) else "error"
        self.parts.metrics.requests.labels(outcome).inc()
