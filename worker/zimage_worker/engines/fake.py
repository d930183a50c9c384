"""An instant, repeatable picture: tests of the app without torch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

from PIL import Image

from ..images import ImageOrder, Picture
from . import Engine, Made, Memory, Phase, Stopped


class FakeEngine:
    """One flat colour, drawn from prompt and seed. `step_seconds` makes it slow on demand."""

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.step_seconds = step_seconds

    def generate(self, order: ImageOrder, seed: int, stop: threading.Event) -> Made:
        """The same order and seed give the same picture."""
        for _ in range(order.steps):
            if stop.wait(self.step_seconds):
                raise Stopped
        pictures = tuple(self.picture(order, seed + number) for number in range(order.images))
        return Made(pictures, (self.step_seconds,) * order.steps, 0.0)

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
