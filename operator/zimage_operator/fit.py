"""Whether the pictures that a service admits fit into the GPU memory that it states; pure.

By the worker's own closed form, with the worker's own question (memory_plan.py is its copy): what is refused
here is what the worker would refuse or cut down after it has loaded 20 GB.
"""

from __future__ import annotations

from functools import cache
from math import isqrt

from .memory_plan import GIB, Z_IMAGE, largest_work, plan


@cache
def misfit(max_pixels: int, gpu_bytes: int, least_pixels: int) -> str:
    """Say why it does not fit, and what would; empty where it does. `least_pixels`: no smaller limit can be written."""
    found = plan(Z_IMAGE, largest_work(max_pixels), gpu_bytes)
    if found.chosen:
        return ""
    needed, has = min(each.needed_bytes for each in found.needs) / GIB, gpu_bytes / GIB
    text = f"pictures of {max_pixels} pixels need {needed:.1f} GiB of GPU memory, and gpu.memory is {has:.1f} GiB"
    if found.largest_pixels_of_any < least_pixels:
        least = min(each.needed_bytes for each in plan(Z_IMAGE, largest_work(least_pixels), gpu_bytes).needs) / GIB
        return f"{text}: use a GPU with {least:.1f} GiB or more, and write its memory"
    side = isqrt(found.largest_pixels_of_any)
    return f"{text}: write at most {found.largest_pixels_of_any} ({side}x{side}), or the memory of a larger GPU"
