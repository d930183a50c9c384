"""What a run tells between two steps: that it lives, how far it is, and what is coming."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from PIL import Image

from ..images import ImageOrder, Step, partial_steps
from . import Stopped, Told

# The published linear fit of the Flux VAE, which is Z-Image's: latent channels to red, green, blue from -1 to 1.
LATENT_RGB = (
    (-0.0346, 0.0244, 0.0681), (0.0034, 0.0210, 0.0687), (0.0275, -0.0668, -0.0433), (-0.0174, 0.0160, 0.0617),
    (0.0859, 0.0721, 0.0329), (0.0004, 0.0383, 0.0115), (0.0405, 0.0861, 0.0915), (-0.0236, -0.0185, -0.0259),
    (-0.0245, 0.0250, 0.1180), (0.1008, 0.0755, -0.0421), (-0.0515, 0.0201, 0.0011), (0.0428, -0.0012, -0.0036),
    (0.0817, 0.0765, 0.0749), (-0.1264, -0.0522, -0.1103), (-0.0280, -0.0881, -0.0499), (-0.1262, -0.0982, -0.0778),
)  # fmt: skip
LATENT_RGB_BIAS = (-0.0329, -0.0718, -0.0851)


class Watch:
    """Looks at each step of one picture: stop, time, progress, preview."""

    def __init__(self, order: ImageOrder, image: int, stop: threading.Event, told: Told) -> None:
        self.image = image
        self.stop = stop
        self.told = told
        self.partial_images = order.partial_images
        self.began = time.perf_counter()
        self.steps_seconds: list[float] = []
        self.before: Any = None

    def ensure_wanted(self) -> None:
        """Between two steps and before whatever cannot be interrupted.

        Raises:
            Stopped: nobody waits for this picture. Raising is the only way out of the pipeline that
                skips the decode; its own `_interrupt` still decodes.
        """
        if self.stop.is_set():
            raise Stopped

    def after_step(self, pipe: Any, number: int, _time: Any, kept: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's callback."""
        now = time.perf_counter()
        self.steps_seconds.append(now - self.began)
        self.began = now
        self.ensure_wanted()
        step, steps = number + 1, pipe.num_timesteps
        partials = partial_steps(self.partial_images, steps)
        if step in partials:
            image = preview(foreseen(self.before, kept["latents"], pipe.scheduler))
            self.told(Step(self.image, step, steps, image, partials.index(step)))
        else:
            self.told(Step(self.image, step, steps))
        self.before = kept["latents"] if self.partial_images else None
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
