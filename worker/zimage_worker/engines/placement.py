"""Where the weights live: the memory plan's answer for this GPU, carried out on a pipeline.

On a CPU there is no plan and nothing changes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch

from ..memory_plan import CONTEXT_BYTES, GIB, TILE_PX, TOKEN_PX, ModelShape, Plan, Strategy, largest_work, plan
from ..shape_files import ShapeUnknown, shape_in

log = logging.getLogger("zimage.engine")


class DoesNotFit(Exception):
    """Not even with the weights outside of the GPU: another GPU is needed."""


@dataclass(frozen=True)
class Placement:
    """What was decided for one device."""

    strategy: Strategy
    gpu_bytes: int
    # The largest picture, in pixels, that fits beside the weights.
    largest_pixels: int

    @property
    def largest_side_px(self) -> int:
        """Of a square."""
        return isqrt(self.largest_pixels) // TOKEN_PX * TOKEN_PX


def placement_on(path: Path, device: str, gpu_memory_bytes: int | None, most_pixels: int) -> Placement | None:
    """Decide before the weights are read; limit the process to its share of the GPU.

    Raises:
        DoesNotFit: the smallest picture does not fit with any strategy.
    """
    if not device.startswith("cuda"):
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    gpu_bytes = min(gpu_memory_bytes or total, total)
    if gpu_memory_bytes:
        # The context lies outside of what the fraction counts.
        torch.cuda.set_per_process_memory_fraction(max(gpu_bytes - CONTEXT_BYTES, 1) / total, device)
    try:
        shape = shape_in(path)
    except ShapeUnknown as error:
        # A model that loads but whose shape cannot be read: as before there was a plan.
        log.warning("no memory plan: %s", error)
        return None
    return decided(shape, gpu_bytes, most_pixels)


def decided(shape: ModelShape, gpu_bytes: int, most_pixels: int) -> Placement:
    """The plan for the largest picture that the settings admit, or for the largest that fits. Pure but for the log.

    Raises:
        DoesNotFit: nothing fits.
    """
    wanted = planned(shape, gpu_bytes, most_pixels)
    found = wanted
    if not wanted.chosen and wanted.largest_pixels_of_any:
        found = planned(shape, gpu_bytes, wanted.largest_pixels_of_any)
        log.warning(
            "ZIMAGE_MAX_PIXELS is %d, and %d fit into %.1f GiB of GPU memory: larger pictures are refused",
            most_pixels, found.largest_pixels, gpu_bytes / GIB,
        )  # fmt: skip
    if not found.chosen:
        least = min(each.needed_bytes for each in found.needs) / GIB
        raise DoesNotFit(
            f"the model needs {least:.1f} GiB of GPU memory at least and has {gpu_bytes / GIB:.1f}; "
            "use a larger GPU, or raise ZIMAGE_GPU_MEMORY if it is smaller than the device"
        )
    chosen = found.chosen
    log.info(
        "memory plan: %s, %.1f of %.1f GiB, %.1f GiB of host memory, pictures up to %d pixels",
        chosen.strategy, chosen.needed_bytes / GIB, gpu_bytes / GIB, chosen.host_bytes / GIB, found.largest_pixels,
    )  # fmt: skip
    return Placement(chosen.strategy, gpu_bytes, found.largest_pixels)


def planned(shape: ModelShape, gpu_bytes: int, pixels: int) -> Plan:
    """For a square of so many pixels; pictures are made one at a time, and any may have guidance."""
    return plan(shape, largest_work(pixels), gpu_bytes)


def place(pipeline: Any, device: str, placement: Placement | None) -> None:
    """Move the pipeline's parts to where they belong."""
    strategy = placement.strategy if placement else Strategy.RESIDENT
    if strategy is Strategy.MODEL_OFFLOAD:
        pipeline.enable_model_cpu_offload(device=device)
    elif strategy is Strategy.ENCODER_OFFLOAD:
        pipeline.transformer.to(device)
        pipeline.vae.to(device)
        # Here, so that `plan --check` need not import all of diffusers.
        from diffusers.hooks import apply_group_offloading

        # Layer by layer, and the pipeline's execution device is found through its hooks.
        apply_group_offloading(pipeline.text_encoder, torch.device(device), offload_type="leaf_level")
    else:
        pipeline.to(device)
    if strategy.tiled:
        pipeline.vae.enable_tiling()
        # Its own tiles are 1024 px, which saves nothing at the usual size.
        pipeline.vae.tile_sample_min_size, pipeline.vae.tile_latent_min_size = TILE_PX, TILE_PX // 8


def device_facts() -> tuple[str, int, int] | None:
    """Name, free and total bytes of the first GPU; None where there is none."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info(0)
    return torch.cuda.get_device_name(0), free, total
