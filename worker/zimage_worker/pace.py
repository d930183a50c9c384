"""How fast the model is: learned from what it made, told for what it shall make. Pure but for its memory.

A step's work grows with the pixels (a little faster: 3.7 times for 4 times the pixels at these sizes, less
the constant part), twice with guidance. Good to some ten per cent, which is what a queue needs.
"""

from __future__ import annotations

from collections.abc import Sequence

from .images import ImageOrder

# How much the newest order counts: some five orders of memory.
NEWEST_SHARE = 0.2


class Pace:
    """Seconds per pixel."""

    def __init__(self) -> None:
        self.step_seconds_per_pixel: float | None = None
        self.decode_seconds_per_pixel = 0.0

    def learn(self, order: ImageOrder, steps_seconds: Sequence[float], decode_seconds: float) -> None:
        """From a finished order."""
        if not steps_seconds:
            return
        step = sum(steps_seconds) / len(steps_seconds) / step_pixels(order)
        decode = decode_seconds / (order.width_px * order.height_px * order.images)
        if self.step_seconds_per_pixel is None:
            self.step_seconds_per_pixel, self.decode_seconds_per_pixel = step, decode
        else:
            self.step_seconds_per_pixel += (step - self.step_seconds_per_pixel) * NEWEST_SHARE
            self.decode_seconds_per_pixel += (decode - self.decode_seconds_per_pixel) * NEWEST_SHARE

    def step_seconds(self, order: ImageOrder) -> float:
        """What one step should take; 0 before anything was learned."""
        return (self.step_seconds_per_pixel or 0.0) * step_pixels(order)

    def seconds(self, order: ImageOrder) -> float:
        """What the whole order should take on the GPU; 0 before anything was learned."""
        decode = self.decode_seconds_per_pixel * order.width_px * order.height_px
        return order.images * (order.steps_run * self.step_seconds(order) + decode)


def step_pixels(order: ImageOrder) -> int:
    """The pixels that one step works on."""
    return order.width_px * order.height_px * (2 if order.guidance_scale > 0 else 1)
