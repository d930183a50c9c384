"""The model itself: diffusers.ZImagePipeline in bfloat16. The only file that serves with torch.

Everything here runs on the engine thread. What could end in a device-side assert is refused
in images.py already; here only what needs the tokenizer or the model's own configuration.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import ZImagePipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from ..errors import BadRequest
from ..images import ImageOrder, Picture
from . import EngineBroken, Made, Memory, Phase, Stopped
from .placement import Placement, place, placement_on

# The encoder pads to one of these; 512 is the pipeline's own. The position table (1536, of which
# the frame axis takes a little) ends before the next one.
PROMPT_TOKENS = (512, 1024)
WARM_UP_SIDE_PX = 256


def chosen_device(wanted: str) -> str:
    """`auto` is the GPU where there is one."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


class ZImageEngine:
    """One pipeline on one device."""

    def __init__(self, pipeline: Any, device: str, placement: Placement | None = None) -> None:
        self.pipeline = pipeline
        self.device = device
        self.placement = placement

    def generate(self, order: ImageOrder, seed: int, stop: threading.Event) -> Made:
        """All pictures of an order, one after the other: a batch would change their bytes.

        Raises:
            Stopped: at the next step after `stop`; nothing is decoded for nobody.
            EngineBroken: the GPU is lost for this process.
        """
        longest = self.padded_tokens(order)
        pictures: list[Picture] = []
        steps: list[float] = []
        decode_seconds = 0.0
        for number in range(order.images):
            marks = [time.perf_counter()]
            pictures.append(Picture(self.one(order, seed + number, longest, stop, marks), seed + number))
            decode_seconds += time.perf_counter() - marks[-1]
            steps += [after - before for before, after in pairwise(marks)]
        return Made(tuple(pictures), tuple(steps), decode_seconds)

    def one(self, order: ImageOrder, seed: int, longest: int, stop: threading.Event, marks: list[float]) -> Any:
        """One picture."""

        def after_step(_pipe: Any, _step: int, _time: Any, kept: dict[str, Any]) -> dict[str, Any]:
            marks.append(time.perf_counter())
            # Raising is the only way out that skips the decode; `_interrupt` still decodes.
            if stop.is_set():
                raise Stopped
            return kept

        if stop.is_set():
            raise Stopped
        try:
            with torch.inference_mode():
                result = self.pipeline(
                    # A new list each time: the pipeline writes its chat template back into it.
                    prompt=[order.prompt],
                    negative_prompt=[order.negative_prompt] if order.negative_prompt else None,
                    width=order.width_px,
                    height=order.height_px,
                    num_inference_steps=order.steps,
                    guidance_scale=order.guidance_scale,
                    # On the CPU, so that a seed gives the same noise whatever the device.
                    generator=[torch.Generator("cpu").manual_seed(seed)],
                    max_sequence_length=longest,
                    callback_on_step_end=after_step,
                )
        except Stopped:
            # The way out skips the pipeline's own end, which moves offloaded models back.
            self.pipeline.maybe_free_model_hooks()
            raise
        except torch.OutOfMemoryError:
            # Not poisoned: give the pieces back and let the caller see a failed request.
            gc.collect()
            torch.cuda.empty_cache()
            raise
        except torch.AcceleratorError as error:
            raise EngineBroken(str(error).splitlines()[0]) from error
        return result.images[0]

    def padded_tokens(self, order: ImageOrder) -> int:
        """The length that the encoder pads to; the pipeline would cut longer prompts silently."""
        for name, text in (("prompt", order.prompt), ("negative_prompt", order.negative_prompt)):
            if (tokens := self.tokens(text)) > PROMPT_TOKENS[-1]:
                raise BadRequest(f"{name}: it has {tokens} tokens; at most {PROMPT_TOKENS[-1]} are read", param=name)
        longest = max(self.tokens(order.prompt), self.tokens(order.negative_prompt))
        return next(length for length in PROMPT_TOKENS if longest <= length)

    def tokens(self, text: str) -> int:
        """As the pipeline counts them: with the chat template around the text."""
        tokenizer = self.pipeline.tokenizer
        messages = [{"role": "user", "content": text}]
        whole = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return len(tokenizer(whole).input_ids)

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
    pipeline.set_progress_bar_config(disable=True)
    told("warm-up")
    engine = ZImageEngine(pipeline, target, placement)
    if placement:
        warm_up_side_px = min(warm_up_side_px, placement.largest_side_px)
    engine.generate(warm_up_order(warm_up_side_px), 0, threading.Event())
    return engine


def warm_up_order(side_px: int) -> ImageOrder:
    """One step at the size that `auto` means, so that the first client does not pay for it."""
    return ImageOrder(
        prompt="warm-up", negative_prompt="", width_px=side_px, height_px=side_px, images=1, steps=1,
        guidance_scale=0.0, seed=0, format="png", compression=None, bare=False,
    )  # fmt: skip
