"""What the rest of the worker knows of a model: load, then pictures for an order.

Both run on the one engine thread (thread.py) and nowhere else: pipelines are not thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ..images import ImageOrder, Picture, Progress

Phase = Literal["import", "load", "warm-up", "ready", "failed", "draining"]


class Stopped(Exception):
    """The client left or time was up: the run ended at a step, nothing was decoded."""


class EngineBroken(Exception):
    """The device is lost for this process: only a new process helps."""


@dataclass(frozen=True)
class Made:
    """What a run gave and what it took."""

    pictures: tuple[Picture, ...]
    steps_seconds: tuple[float, ...]
    decode_seconds: float


@dataclass(frozen=True)
class Memory:
    """Bytes on the device; zero on a CPU."""

    allocated_bytes: int = 0
    reserved_bytes: int = 0
    peak_bytes: int = 0


# What an engine does that is counted in a metric.
Counted = Literal["embedding_hit", "embedding_miss", "oom_retry", "oom_tiled", "oom_refused"]
Count = Callable[[Counted], None]

# Called on the engine thread, after each step and for each finished picture; must be quick.
Told = Callable[[Progress], None]


class Engine(Protocol):
    """A loaded model."""

    # The order that was made for nobody before the first client, and how long it took.
    warmed: tuple[ImageOrder, Made] | None

    def weigh(self, order: ImageOrder) -> int:
        """The text tokens of an order; refuses what the model cannot take. Quick: the event loop asks."""
        ...

    def generate(self, order: ImageOrder, seed: int, stop: threading.Event, told: Told) -> Made:
        """Make the pictures, with seeds `seed`, `seed + 1`, …; look at `stop` after each step."""
        ...

    def memory(self) -> Memory:
        """What the device holds."""
        ...


# Called on the engine thread; tells its phase as it goes. May raise anything.
Loader = Callable[[Callable[[Phase], None]], Engine]
