"""The real process with an engine that fails on request: `python injected.py fake | real`.

Nothing of the product knows of it: this script replaces the loader in `zimage_worker.__main__` and then
calls its `main`. `fake` is the instant engine, `real` the diffusers one whose pipeline call raises what
torch would raise. The prompt's first word says what happens: `stall`, `die`, `slow`, `illegal`, `oom`, `oom-once`,
`oom-decode`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from zimage_worker import __main__ as program
from zimage_worker.engines.fake import FakeEngine

# Longer than the 60 s after which proxies cut a silent answer unless told otherwise.
SLOW_SECONDS = 92.0


class Stalling(FakeEngine):
    """Makes one step, and then hangs like a kernel that never returns."""

    def generate(self, order: Any, seed: int, stop: threading.Event, told: Any) -> Any:
        word = order.prompt.split()[0]
        if word == "die":
            raise SystemExit(3)
        while word == "stall":
            time.sleep(1)
        if word == "slow":
            return FakeEngine(SLOW_SECONDS / order.steps).generate(order, seed, stop, told)
        return super().generate(order, seed, stop, told)


def fake_loader(*_: Any) -> Callable[[Any], Any]:
    return lambda _told: Stalling(step_seconds=0.001)


def real_loader(*parts: Any) -> Callable[[Any], Any]:
    load = original(*parts)

    def loaded(told: Any) -> Any:
        import torch

        engine: Any = load(told)
        called, vae = engine.called, engine.pipeline.vae
        decode = vae.decode
        once = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")]

        def full(*_: Any, **__: Any) -> Any:
            vae.decode = decode
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        def failing(order: Any, seed: int, watch: Any) -> Any:
            word = order.prompt.split()[0]
            if word == "illegal":
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")
            if word == "oom" or (word == "oom-once" and once):
                raise once.pop() if word == "oom-once" else torch.OutOfMemoryError("CUDA out of memory.")
            if word == "oom-decode":
                vae.decode = full
            return called(order, seed, watch)

        engine.called = failing
        return engine

    return loaded


if __name__ == "__main__":
    original = program.loader
    program.loader = fake_loader if sys.argv[1] == "fake" else real_loader
    program.main(["serve"])
