"""An instant, repeatable picture: tests of the app without torch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

from PIL import Image

from ..images import ImageOrder, Picture, Step, partial_steps
from . import Engine, Made, Memory, Phase, Stopped, Told


class FakeEngine:
    """One flat colour, drawn from prompt and seed. `step_seconds` makes it slow on demand."""

    warmed: tuple[ImageOrder, Made] | None = None

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.step_seconds = step_seconds

    def weigh(self, order: ImageOrder) -> int:
        """A token for each word."""
        return len(order.prompt.split())

    def generate(self, order: ImageOrder, seed: int, stop: threading.Event, told: Told) -> Made:
        """The same order and seed give the same picture."""
        pictures = []
        partials = partial_steps(order.partial_images, order.steps)
        for number in range(order.images):
            picture = self.picture(order, seed + number)
            for step in range(1, order.steps + 1):
                if stop.wait(self.step_seconds):
                    raise Stopped
                preview = picture.image.resize((2, 2)) if step in partials else None
                told(Step(number, step, order.steps, preview, partials.index(step) if preview else 0))
            told(picture)
            pictures.append(picture)
        return Made(tuple(pictures), (self.step_seconds,) * order.steps * order.images, 0.0)

    def picture(self, order: ImageOrder, seed: int) -> Picture:
        """A colour in the asked size."""
        colour = hashlib.sha256(f"{order.prompt} {seed}".encode()).digest()[:3]
        return Picture(Image.new("RGB", (order.width_px, order.height_px), (colour[0], colour[1], colour[2])), seed)

    def memory(self) -> Memory:
        """It has no device."""
        return Memory()


def load(told: Callable[[Phase], None]) -> Engine:
    """Ready at once."""
    told("load")
    return FakeEngine()
