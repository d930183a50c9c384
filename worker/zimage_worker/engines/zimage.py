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
from PIL import Image
from transformers.utils import logging as transformers_logging

from ..errors import BadRequest
from ..images import ImageOrder, Picture, Step, partial_steps
from . import Engine, EngineBroken, Made, Memory, Phase, Stopped, Told

# The encoder pads to one of these; 512 is the pipeline's own. The position table (1536, of which
# the frame axis takes a little) ends before the next one.
PROMPT_TOKENS = (512, 1024)
# The published linear fit of the Flux VAE, which is Z-Image's: latent channels to red, green, blue from -1 to 1.
LATENT_RGB = (
    (-0.0346, 0.0244, 0.0681), (0.0034, 0.0210, 0.0687), (0.0275, -0.0668, -0.0433), (-0.0174, 0.0160, 0.0617),
    (0.0859, 0.0721, 0.0329), (0.0004, 0.0383, 0.0115), (0.0405, 0.0861, 0.0915), (-0.0236, -0.0185, -0.0259),
    (-0.0245, 0.0250, 0.1180), (0.1008, 0.0755, -0.0421), (-0.0515, 0.0201, 0.0011), (0.0428, -0.0012, -0.0036),
    (0.0817, 0.0765, 0.0749), (-0.1264, -0.0522, -0.1103), (-0.0280, -0.0881, -0.0499), (-0.1262, -0.0982, -0.0778),
)  # fmt: skip
LATENT_RGB_BIAS = (-0.0329, -0.0718, -0.0851)


def chosen_device(wanted: str) -> str:
    """`auto` is the GPU where there is one."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


class Watch:
    """Looks at each step of one picture: stop, time, progress, preview."""

    def __init__(self, order: ImageOrder, image: int, stop: threading.Event, told: Told, marks: list[float]) -> None:
        self.image = image
        self.stop = stop
        self.told = told
        self.marks = marks
        self.partial_images = order.partial_images
        self.before: Any = None

    def after_step(self, pipe: Any, number: int, _time: Any, kept: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's callback, between two steps."""
        self.marks.append(time.perf_counter())
        # Raising is the only way out that skips the decode; `_interrupt` still decodes.
        if self.stop.is_set():
            raise Stopped
        step, steps = number + 1, pipe.num_timesteps
        partials = partial_steps(self.partial_images, steps)
        if step in partials:
            image = preview(foreseen(self.before, kept["latents"], pipe.scheduler))
            self.told(Step(self.image, step, steps, image, partials.index(step)))
        else:
            self.told(Step(self.image, step, steps))
        self.before = kept["latents"]
        return kept


def foreseen(before: Any, latents: Any, scheduler: Any) -> Any:
    """The latents at the end if the model went straight on: much clearer than the noisy ones.

    A flow-matching step moves along v = Δx / Δσ; the end is where σ is 0.
    """
    if before is None:
        return latents
    last, now = scheduler.sigmas[scheduler.step_index - 1], scheduler.sigmas[scheduler.step_index]
    return latents - now * (latents - before) / (now - last)


def preview(latents: Any) -> Image.Image:
    """One RGB pixel for each latent one: a matrix of 16 x 3 instead of the decoder (microseconds)."""
    with torch.inference_mode():
        colours = torch.einsum("chw,cr->hwr", latents[0].float(), torch.tensor(LATENT_RGB).to(latents.device))
        colours = (colours + torch.tensor(LATENT_RGB_BIAS).to(latents.device) + 1) * 127.5
        return Image.fromarray(colours.clamp(0, 255).to(torch.uint8).cpu().numpy())


class ZImageEngine:
    """One pipeline on one device."""

    def __init__(self, pipeline: Any, device: str) -> None:
        self.pipeline = pipeline
        self.device = device

    def generate(self, order: ImageOrder, seed: int, stop: threading.Event, told: Told) -> Made:
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
            watch = Watch(order, number, stop, told, marks)
            pictures.append(Picture(self.one(order, seed + number, longest, watch), seed + number))
            told(pictures[-1])
            decode_seconds += time.perf_counter() - marks[-1]
            steps += [after - before for before, after in pairwise(marks)]
        return Made(tuple(pictures), tuple(steps), decode_seconds)

    def one(self, order: ImageOrder, seed: int, longest: int, watch: Watch) -> Any:
        """One picture."""
        if watch.stop.is_set():
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
                    callback_on_step_end=watch.after_step,
                )
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
    path: Path, device: str, gpu_memory_bytes: int | None, warm_up_side_px: int, told: Callable[[Phase], None]
) -> Engine:
    """Read the model, move it to its device and make one picture for nobody."""
    # Their progress bars are no JSON lines.
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    told("load")
    target = chosen_device(device)
    if gpu_memory_bytes and target.startswith("cuda"):
        share = gpu_memory_bytes / torch.cuda.get_device_properties(target).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), target)
    pipeline = ZImagePipeline.from_pretrained(
        # "auto" would mean float32 silently; pickles are never read, nothing is downloaded.
        str(path),
        dtype=torch.bfloat16,
        local_files_only=True,
        use_safetensors=True,
    ).to(target)
    pipeline.set_progress_bar_config(disable=True)
    told("warm-up")
    engine = ZImageEngine(pipeline, target)
    engine.generate(warm_up_order(warm_up_side_px), 0, threading.Event(), lambda _progress: None)
    return engine


def warm_up_order(side_px: int) -> ImageOrder:
    """One step at the size that `auto` means, so that the first client does not pay for it."""
    return ImageOrder(
        prompt="warm-up", negative_prompt="", width_px=side_px, height_px=side_px, images=1, steps=1,
        guidance_scale=0.0, seed=0, format="png", compression=None, bare=False,
        stream=False, partial_images=0, progress=False,
    )  # fmt: skip
