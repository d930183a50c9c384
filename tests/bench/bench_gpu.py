"""`make bench-gpu`: the full-size pipeline with random bfloat16 weights built on the device, no download.

Peak memory against the plan (goal: within 5 %), seconds a picture against the roofline (goal: 60 %), and
fifty pictures in a row without growth or fragmentation. Without a GPU it says so and ends with 3;
`--device cpu --tiny` walks the same path with the tiny shape, whose times mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

import memory_oracle
from zimage_worker import tiny
from zimage_worker.engines.placement import Placement, decided, place
from zimage_worker.engines.zimage import ZImageEngine
from zimage_worker.images import ImageOrder
from zimage_worker.memory_plan import CONTEXT_BYTES, GIB, Z_IMAGE, ModelShape, Work, need
from zimage_worker.roofline import flop, seconds

PROMPT = "a red fox in the snow, morning light, photograph"
STEPS = 8
ROUNDS = 5
IN_A_ROW = 50
TINY = ModelShape(
    transformer_parameters=0, encoder_parameters=0, vae_parameters=0, dim=64, heads=2, layers=2, refiner_layers=1,
    caption_dim=64, rope_dims=(16, 8, 8), rope_lengths=(1536, 512, 512), encoder_hidden=64, encoder_intermediate=128,
    encoder_layers=3, encoder_heads=4, encoder_kv_heads=2, encoder_head_dim=16, vocabulary=259,
    vae_channels=(8, 8, 8, 8), vae_layers=1, latent_channels=16,
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One size."""

    size: str
    seconds: float
    bound_seconds: float | None
    peak_bytes: int
    planned_bytes: int
    reserved_bytes: int
    decode_seconds: float


def nobody(_event: object) -> None:
    """Nobody listens to what the engine tells."""


def built(shape: ModelShape, device: str) -> tuple[Any, ModelShape]:
    """The pipeline on the device, and the shape with its true sizes. Random weights: times do not depend on them."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        makers = (memory_oracle.transformer, memory_oracle.vae, memory_oracle.encoder)
        diffusion, decoder, encoder = (make(shape).eval() for make in makers)
    torch.set_default_dtype(torch.float32)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False)
    pipeline = ZImagePipeline(
        scheduler=scheduler, vae=decoder, text_encoder=encoder, tokenizer=tiny.tokenizer(), transformer=diffusion
    )
    pipeline.set_progress_bar_config(disable=True)
    counts = [sum(each.numel() for each in part.parameters()) for part in (diffusion, encoder, decoder)]
    return pipeline, replace(
        shape, transformer_parameters=counts[0], encoder_parameters=counts[1], vae_parameters=counts[2]
    )


# Another prompt each time: a remembered one would cost no encoding, which the bound counts.
NUMBERS = itertools.count()


def order(side: int, steps: int = STEPS) -> ImageOrder:
    return ImageOrder(
        prompt=f"{PROMPT} {next(NUMBERS):04d}", negative_prompt="",
        width_px=side, height_px=side, images=1, steps=steps,
        guidance_scale=0.0, seed=0, format="png", compression=None, bare=False,
        stream=False, partial_images=0, progress=False,
    )  # fmt: skip


def timed(engine: ZImageEngine, side: int) -> tuple[float, float]:
    """Seconds of a picture and of its decode."""
    began = time.perf_counter()
    made = engine.generate(order(side), 1, threading.Event(), nobody)
    return time.perf_counter() - began, made.decode_seconds


def statistics_of(device: str) -> tuple[int, int]:
    """Peaks of what lives and of what is reserved; zero on a CPU, where torch does not count."""
    if not device.startswith("cuda"):
        return 0, 0
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def measured(engine: ZImageEngine, shape: ModelShape, placement: Placement, side: int) -> Measured:
    cuda = engine.device.startswith("cuda")
    timed(engine, side)
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    runs = [timed(engine, side) for _ in range(ROUNDS)]
    peak, reserved = statistics_of(engine.device)
    tokens = engine.weigh(order(side))
    bounds = seconds(flop(shape, Work(side, side), tokens).total(STEPS))
    # The longest name that fits: "RTX 4090 D" before "RTX 4090".
    name = torch.cuda.get_device_name() if cuda else ""
    known = max((each for each in bounds if each in name), key=len, default=None)
    return Measured(
        size=f"{side}x{side}",
        seconds=statistics.median(run[0] for run in runs),
        bound_seconds=bounds[known] if known else None,
        peak_bytes=peak,
        planned_bytes=need(shape, Work(side, side), placement.strategy).peak_bytes,
        reserved_bytes=reserved,
        decode_seconds=statistics.median(run[1] for run in runs),
    )


def in_a_row(engine: ZImageEngine, sides: list[int], count: int) -> list[tuple[int, int]]:
    """Allocated and reserved bytes after each of many pictures of mixed sizes."""
    found = []
    for number in range(count):
        timed(engine, sides[number % len(sides)])
        memory = engine.memory()
        found.append((memory.allocated_bytes, memory.reserved_bytes))
    return found


def show(rows: list[Measured], row: list[tuple[int, int]], name: str, placement: Placement) -> None:
    print(f"\n{name}, strategy {placement.strategy}, {STEPS} steps, median of {ROUNDS}")
    print("size        seconds   bound  share (goal 60 %)  peak GiB   plan  error (goal 5 %)  reserved GiB")
    for each in rows:
        share = f"{100 * each.bound_seconds / each.seconds:6.1f} %" if each.bound_seconds else "unknown"
        bound = f"{each.bound_seconds:7.2f}" if each.bound_seconds else "      -"
        error = f"{100 * (each.planned_bytes / each.peak_bytes - 1):+6.1f} %" if each.peak_bytes else "not measured"
        print(
            f"{each.size:10} {each.seconds:8.2f} {bound}  {share:17}  {each.peak_bytes / GIB:8.2f} "
            f"{each.planned_bytes / GIB:6.2f}  {error:16}  {each.reserved_bytes / GIB:8.2f}"
        )
    settled = row[len(row) // 5 :]
    grown, fragments = settled[-1][0] - settled[0][0], max(reserved - live for live, reserved in settled)
    print(
        f"{len(row)} pictures in a row: allocated grew by {grown / 2**20:.1f} MiB (goal 0), "
        f"reserved beyond allocated at most {fragments / GIB:.2f} GiB"
    )


def context_bytes() -> int:
    """What lies outside of torch's allocator: the guess of the plan, measured."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the tiny shape: to walk the path without a GPU")
    parser.add_argument("--sizes", default="768,1024")
    parser.add_argument("--count", type=int, default=IN_A_ROW)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    cuda = arguments.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        print("there is no GPU here: nothing was measured")
        return 3
    sides = [int(side) for side in arguments.sizes.split(",")]
    pipeline, shape = built(TINY if arguments.tiny else Z_IMAGE, "cpu" if not cuda else arguments.device)
    total = torch.cuda.get_device_properties(arguments.device).total_memory if cuda else 64 * GIB
    placement = decided(shape, total, max(sides) ** 2)
    place(pipeline, arguments.device, placement)
    engine = ZImageEngine(pipeline, arguments.device, nobody, placement)
    rows = [measured(engine, shape, placement, side) for side in sides]
    row = in_a_row(engine, [*sides, sides[0] // 32 * 16], arguments.count)
    show(rows, row, torch.cuda.get_device_name() if cuda else "no GPU: NOT a measurement", placement)
    if cuda:
        print(f"outside of the allocator: {context_bytes() / GIB:.2f} GiB (the plan assumes {CONTEXT_BYTES / GIB:.2f})")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
