"""Out of memory: what is tried, what is given up, and when the device is given up.

The rungs, each counted: `retry` (everything given back to the device, once more), `tiled` (the decode in
tiles), `refused` (this request, and its size for a while). Too many refusals end the process: a fresh
one begins with fresh memory.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NoReturn, TypeVar

import torch

from ..errors import OutOfMemory
from ..images import ImageOrder
from . import Count, EngineBroken

T = TypeVar("T")

# A size that did not fit is not tried again for so long: by then a neighbour may have left the GPU. A guess.
SHRUNK_SECONDS = 600.0
# So many refusals within that time, each for a smaller size than the one before, are no bad luck. A guess.
REFUSALS_MAX = 3
# Half the decoder's own tile: 0.4 GiB of memory whatever the picture's size (docs of the memory plan).
TILE_PX = 512
# What libraries say that have no type of their own for it.
NO_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "can't allocate memory")
# After these the device answers nothing but errors for the life of the process.
LOST = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "cuDNN error")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether memory is all that is missing."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in NO_MEMORY)


def lost(error: RuntimeError) -> bool:
    """Whether the device is lost."""
    return isinstance(error, torch.AcceleratorError) or any(word in str(error) for word in LOST)


class Ladder:
    """One device's memory."""

    def __init__(self, count: Count, clock: Callable[[], float]) -> None:
        self.count = count
        self.clock = clock
        # Sizes from here on are refused until the time beside it.
        self.shrunk: tuple[int, float] | None = None
        self.refusals: list[float] = []

    def ensure_fits(self, order: ImageOrder) -> None:
        """Before the queue.

        Raises:
            OutOfMemory: this size did not fit a short while ago.
        """
        if self.shrunk and self.clock() < self.shrunk[1] and weight(order) >= self.shrunk[0]:
            raise OutOfMemory(order.size, retry_after_seconds=int(self.shrunk[1] - self.clock()) + 1)

    def climb(
        self,
        order: ImageOrder,
        attempt: Callable[[], T],
        rung: Literal["oom_retry", "oom_tiled"],
        lower: Callable[[], AbstractContextManager[None]],
    ) -> T:
        """Try, make room, try once more with less.

        Raises:
            OutOfMemory: it did not fit either way.
            EngineBroken: it is one too many, or the device is lost.
        """
        if done := self.tried(attempt):
            return done[0]
        # Only here, not in an except block: there the traceback still holds the frames and their tensors.
        self.count(rung)
        empty()
        with lower():
            if done := self.tried(attempt):
                return done[0]
        empty()
        return self.refuse(order)

    def tried(self, attempt: Callable[[], T]) -> tuple[T] | None:
        """The result; None where memory was missing."""
        try:
            return (attempt(),)
        except RuntimeError as error:
            if out_of_memory(error):
                return None
            if lost(error):
                raise EngineBroken(str(error).splitlines()[0]) from error
            raise

    def refuse(self, order: ImageOrder) -> NoReturn:
        """The last rung."""
        self.count("oom_refused")
        now = self.clock()
        self.shrunk = (weight(order), now + SHRUNK_SECONDS)
        self.refusals = [*(when for when in self.refusals if now - when < SHRUNK_SECONDS), now]
        if len(self.refusals) >= REFUSALS_MAX:
            raise EngineBroken(f"out of memory {REFUSALS_MAX} times within {SHRUNK_SECONDS:.0f} s")
        raise OutOfMemory(order.size, retry_after_seconds=int(SHRUNK_SECONDS))


def weight(order: ImageOrder) -> int:
    """Pixels on the device at once: guidance makes the batch two."""
    return order.width_px * order.height_px * (2 if order.guidance_scale > 0 else 1)


def empty() -> None:
    """Back to the device what nobody uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tiled(vae: Any) -> Callable[[], AbstractContextManager[None]]:
    """Decode in tiles for the length of the block."""

    @contextmanager
    def block() -> Generator[None, None, None]:
        before = (vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size)
        vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size = True, TILE_PX, TILE_PX // 8
        try:
            yield
        finally:
            vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size = before

    return block
