"""The least time that a picture can take on a GPU: its arithmetic over the device's peak. Pure.

A measured time below the bound is wrong; 55 to 65 % of the peak is what well-kept kernels reach.
"""

from __future__ import annotations

from dataclasses import dataclass

from .memory_plan import LATENT_PX, ModelShape, Work, image_tokens, padded

# Dense bfloat16 with float32 accumulation, in TFLOP/s, from the vendor's data sheets.
PEAK_TFLOPS = {
    "L4": 121.0,
    "A10": 125.0,
    "RTX 4090 D": 147.0,
    "RTX 4090": 165.2,
    "RTX 5090": 209.5,
    "A100": 312.0,
    "L40S": 362.0,
    "H100": 989.4,
    "H200": 989.4,
}


@dataclass(frozen=True)
class Flop:
    """Floating-point operations of one batch (a multiply-add is two)."""

    encode: int
    step: int
    decode: int

    def total(self, steps: int) -> int:
        """A whole run."""
        return self.encode + steps * self.step + self.decode


def flop(shape: ModelShape, work: Work, prompt_tokens: int) -> Flop:
    """What a batch costs; `prompt_tokens` is the caption's true length, the encoder sees it padded."""
    step = step_flop(shape, work, prompt_tokens) * (2 if work.guided else 1)
    encode = encode_flop(shape, work.prompt_tokens)
    return Flop(work.batch * encode, work.batch * step, work.batch * decode_flop(shape, work))


def encode_flop(shape: ModelShape, tokens: int) -> int:
    """The text encoder: every weight but the table of words once a token, and its attention."""
    weights = shape.encoder_parameters - shape.vocabulary * shape.encoder_hidden
    attention = 4 * tokens * tokens * shape.encoder_heads * shape.encoder_head_dim * shape.encoder_layers
    return 2 * weights * tokens + attention


def step_flop(shape: ModelShape, work: Work, prompt_tokens: int) -> int:
    """One forward of the transformer: all blocks see image and caption, the refiners one of them."""
    image, caption = image_tokens(work.width_px, work.height_px), padded(prompt_tokens)
    both = image + caption
    blocks = shape.layers * block_flop(shape, both)
    refiners = shape.refiner_layers * (block_flop(shape, image) + block_flop(shape, caption))
    patch = 2 * 2 * shape.latent_channels
    ends = 2 * shape.dim * (image * patch + both * patch + caption * shape.caption_dim)
    return blocks + refiners + ends


def block_flop(shape: ModelShape, tokens: int) -> int:
    """One block: four projections, three of the feed-forward, and attention over all tokens."""
    linear = 2 * tokens * (4 * shape.dim**2 + 3 * shape.dim * shape.feed_forward)
    return linear + 4 * tokens * tokens * shape.dim


def decode_flop(shape: ModelShape, work: Work) -> int:
    """The VAE's decoder: its convolutions level by level, and attention in the middle."""
    channels = shape.vae_channels
    top = channels[-1]
    latents = work.pixels // LATENT_PX**2
    total = convolution(shape.latent_channels, top) * latents + 2 * resnet(top, top) * latents
    total += (8 * top * top + 4 * latents * top) * latents
    before, here = top, latents
    for level in reversed(range(len(channels))):
        wide = channels[level]
        total += (resnet(before, wide) + shape.vae_layers * resnet(wide, wide)) * here
        if level:
            here *= 4
            total += convolution(wide, wide) * here
        before = wide
    return total + convolution(channels[0], 3) * here


def convolution(before: int, after: int) -> int:
    """3 x 3, a position."""
    return 2 * 9 * before * after


def resnet(before: int, after: int) -> int:
    """Two convolutions, and a 1 x 1 where the width changes, a position."""
    shortcut = 2 * before * after if before != after else 0
    return convolution(before, after) + convolution(after, after) + shortcut


def seconds(total_flop: int) -> dict[str, float]:
    """The bound on each known GPU."""
    return {name: total_flop / (tera * 1e12) for name, tera in PEAK_TFLOPS.items()}
