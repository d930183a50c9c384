"""How fast the model is: learned from what it made, told for what it shall make. Pure but for its memory.

Where it does not know it says less rather than more: an order that was let in and comes too late is one
client's bad luck, one that is kept out for nothing is a worker that stands idle.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from .images import ImageOrder

# How much the newest order of a size counts: some five orders of memory.
NEWEST_SHARE = 0.2
# Sizes that are remembered; the one not seen for longest is forgotten first.
SIZES_MAX = 64


@dataclass(frozen=True)
class Times:
    """Seconds of one step and one decode at one size."""

    step_seconds: float
    decode_seconds: float

    def towards(self, newer: Times) -> Times:
        """A running mean."""
        step, decode = newer.step_seconds - self.step_seconds, newer.decode_seconds - self.decode_seconds
        return Times(self.step_seconds + step * NEWEST_SHARE, self.decode_seconds + decode * NEWEST_SHARE)


class Pace:
    """One device's speed by the pixels of a step; guidance makes them twice as many."""

    def __init__(self) -> None:
        self.known: OrderedDict[int, Times] = OrderedDict()

    def learn(self, order: ImageOrder, steps_seconds: Sequence[float], decode_seconds: float) -> None:
        """From a finished order. The median, and the lower one: a first step is slow, and so is a busy machine's."""
        pixels = step_pixels(order)
        newer = Times(median_low(steps_seconds), decode_seconds / order.images)
        self.known[pixels] = self.known[pixels].towards(newer) if pixels in self.known else newer
        self.known.move_to_end(pixels)
        while len(self.known) > SIZES_MAX:
            self.known.popitem(last=False)

    def times(self, order: ImageOrder) -> Times:
        """Of this size, or in proportion from the largest known one; zero before anything was learned."""
        pixels = step_pixels(order)
        if pixels in self.known or not self.known:
            return self.known.get(pixels, Times(0.0, 0.0))
        largest = max(self.known)
        share, times = pixels / largest, self.known[largest]
        return Times(times.step_seconds * share, times.decode_seconds * share)

    def step_seconds(self, order: ImageOrder) -> float:
        """What one step should take."""
        return self.times(order).step_seconds

    def seconds(self, order: ImageOrder) -> float:
        """What the whole order should take on the GPU."""
        times = self.times(order)
        return order.images * (order.steps_run * times.step_seconds + times.decode_seconds)


def step_pixels(order: ImageOrder) -> int:
    """The pixels that one step works on."""
    return order.width_px * order.height_px * (2 if order.guidance_scale > 0 else 1)
