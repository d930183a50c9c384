"""The model itself: diffusers' Z-Image pipelines in bfloat16, with one set of weights.

Everything here runs on the engine thread, but `weigh`. What could end in a device-side assert is refused
in images.py already; here only what needs the tokenizer or the device's memory.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import ZImageImg2ImgPipeline, ZImageInpaintPipeline, ZImagePipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from ..edits import pasted
from ..images import ImageOrder, Picture
from . import Count, Made, Memory, Phase, Told
from .ladder import Ladder, tiled
from .placement import Placement, place, placement_on
from .previews import Watch
from .prompts import Prompts


def chosen_device(wanted: str) -> str:
    """`auto` is the GPU where there is one."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


class ZImageEngine:
    """One set of weights on one device, in three pipelines: from nothing, from a picture, inside a mask."""

    warmed: tuple[ImageOrder, Made] | None = None

    def __init__(self, pipeline: Any, device: str, count: Count, placement: Placement | None = None) -> None:
        self.pipeline = pipeline
        # The same modules, not copies: no byte more on the device.
        self.img2img = ZImageImg2ImgPipeline(**pipeline.components)
        self.inpaint = ZImageInpaintPipeline(**pipeline.components)
        for each in (pipeline, self.img2img, self.inpaint):
            # It writes to stderr at each step, and it is no JSON.
            each.set_progress_bar_config(disable=True)
        self.device = device
        self.placement = placement
        self.prompts = Prompts(pipeline, count)
        self.ladder = Ladder(count, time.monotonic)

    def weigh(self, order: ImageOrder) -> int:
        """The text tokens of an order; the one thing here that the event loop asks.

        Raises:
            BadRequest: more of them than the model reads.
            OutOfMemory: the size did not fit a short while ago.
        """
        self.ladder.ensure_fits(order)
        return self.prompts.tokens(order)

    def generate(self, order: ImageOrder, seed: int, stop: threading.Event, told: Told) -> Made:
        """All pictures of an order, one after the other: a batch would change their bytes.

        Raises:
            Stopped: at the next step after `stop`; nothing is decoded for nobody.
            OutOfMemory: every rung of the ladder was tried.
            EngineBroken: the GPU is lost for this process.
        """
        pictures: list[Picture] = []
        steps: list[float] = []
        decode_seconds = 0.0
        with torch.inference_mode():
            for number in range(order.images):
                watch = Watch(order, number, stop, told)
                latents = self.denoised(order, seed + number, watch)
                began = time.perf_counter()
                image = self.decoded(order, latents)
                decode_seconds += time.perf_counter() - began
                steps += watch.steps_seconds
                pictures.append(Picture(image, seed + number))
                told(pictures[-1])
        return Made(tuple(pictures), tuple(steps), decode_seconds)

    def denoised(self, order: ImageOrder, seed: int, watch: Watch) -> Any:
        """One picture's latents."""

        def attempt() -> Any:
            watch.ensure_wanted()
            try:
                return self.called(order, seed, watch).images
            finally:
                # Where modules live off the GPU they go back also after an error.
                self.pipeline.maybe_free_model_hooks()

        return self.ladder.climb(order, attempt, "oom_retry", nullcontext)

    def called(self, order: ImageOrder, seed: int, watch: Watch) -> Any:
        """The pipeline that the order needs."""
        prompt, *negative = self.prompts.embeddings(order)
        options: dict[str, Any] = {
            "prompt_embeds": [prompt],
            "negative_prompt_embeds": negative or None,
            "num_inference_steps": order.steps,
            "guidance_scale": order.guidance_scale,
            # On the CPU, so that a seed gives the same noise whatever the device.
            "generator": [torch.Generator("cpu").manual_seed(seed)],
            "output_type": "latent",
            "callback_on_step_end": watch.after_step,
        }
        # Encoding the prompt is no step.
        watch.began = time.perf_counter()
        if order.edit is None:
            return self.pipeline(width=order.width_px, height=order.height_px, **options)
        options |= {"image": order.edit.image, "strength": order.edit.strength}
        if order.edit.mask is None:
            return self.img2img(**options)
        return self.inpaint(mask_image=order.edit.mask, **options)

    def decoded(self, order: ImageOrder, latents: Any) -> Any:
        """Latents to pixels, as the pipelines do at their end; apart, because this is where memory ends first."""
        vae = self.pipeline.vae

        def attempt() -> Any:
            scaled = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
            pixels = vae.decode(scaled, return_dict=False)[0]
            self.pipeline.maybe_free_model_hooks()
            return self.pipeline.image_processor.postprocess(pixels, output_type="pil")[0]

        image = self.ladder.climb(order, attempt, "oom_tiled", tiled(vae))
        return pasted(order.edit, image) if order.edit else image

    def memory(self) -> Memory:
        """What torch's allocator holds on the GPU."""
        if not self.device.startswith("cuda"):
            return Memory()
        return Memory(torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated())


def load(
    path: Path,
    device: str,
    gpu_memory_bytes: int | None,
    warm_up_side_px: int,
    most_pixels: int,
    count: Count,
    told: Callable[[Phase], None],
) -> ZImageEngine:
    """Read the model, move it to its device and make one picture for nobody.

    Raises:
        DoesNotFit: the GPU is too small for the model.
    """
    # Their progress bars are no JSON lines.
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    told("load")
    target = chosen_device(device)
    placement = placement_on(path, target, gpu_memory_bytes, most_pixels)
    pipeline = ZImagePipeline.from_pretrained(
        # "auto" would mean float32 silently; pickles are never read, nothing is downloaded.
        str(path),
        dtype=torch.bfloat16,
        local_files_only=True,
        use_safetensors=True,
    )
    place(pipeline, target, placement)
    told("warm-up")
    engine = ZImageEngine(pipeline, target, count, placement)
    if placement:
        warm_up_side_px = min(warm_up_side_px, placement.largest_side_px)
    order = warm_up_order(warm_up_side_px)
    engine.warmed = (order, engine.generate(order, 0, threading.Event(), lambda _progress: None))
    settle()
    return engine


def settle() -> None:
    """What lives as long as the process is not looked at by the garbage collector again.

    That is some 440,000 objects of torch, diffusers and transformers: a full collection takes 0.3 s and more on a
    CPU of the test machines (`make bench-worker`), in which neither a step nor an answer is made. After this it
    takes microseconds.
    """
    gc.collect()
    gc.freeze()


def warm_up_order(side_px: int) -> ImageOrder:
    """Two steps at the size that `auto` means: the first client does not pay for it, and the second step is timed."""
    return ImageOrder(
        prompt="warm-up", negative_prompt="", width_px=side_px, height_px=side_px, images=1, steps=2,
        guidance_scale=0.0, seed=0, format="png", compression=None, bare=False,
        stream=False, partial_images=0, progress=False,
    )  # fmt: skip
