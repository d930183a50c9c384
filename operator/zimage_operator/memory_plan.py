# Generated from worker/zimage_worker/memory_plan.py by tools/generate.py: edit that one, then `make generate`.
"""How much GPU memory a picture takes, in closed form. Pure: standard library, no torch, no clock.

The operator has the same file (tools/generate.py copies it; `make check` compares), because the
packages never import each other: what it refuses at apply is what the worker would refuse at load.

Every term names the tensors that live at the moment of the peak; the oracle is a run of the real
configuration on fake tensors (tests/worker/test_memory_plan.py, within 2 %).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import isqrt
from typing import Any

GIB = 2**30
# bfloat16, the only type that is served.
NUMBER_BYTES = 2
# One image token is 16 x 16 px: VAE factor 8, patch 2.
LATENT_PX = 8
TOKEN_PX = 16
# 512 positions a side in the model's table.
SIDE_MAX_PX = 8192
# The transformer pads the caption to a multiple of this.
CAPTION_STEP_TOKENS = 32
# What the pipeline pads a prompt to before the encoder.
PROMPT_TOKENS = 512
# The longest prompt that is served (engines/prompts.py; a test compares).
TOKENS_MAX = 1024
# VAE tiles: 512 px, each next one three quarters of that further on (diffusers' overlap of 0.25).
TILE_PX = 512
TILE_STEP_PX = 384

# CUDA's context and the libraries' work spaces, outside of torch's allocator: 0.5 to 1 GiB in
# reports; a guess in between until `make bench-gpu` has measured it.
CONTEXT_BYTES = 3 * GIB // 4
# What the allocator reserves beyond what lives. InvokeAI measured 2.9 times for this VAE's decode
# (4400 B a pixel against 1536, convolution work spaces included); the rest is a guess.
DECODE_RESERVE = 2.9
OTHER_RESERVE = 1.2


class Strategy(StrEnum):
    """Where the weights live and how the picture is decoded: the fastest first."""

    RESIDENT = "resident"
    TILED = "resident-tiled"
    ENCODER_OFFLOAD = "encoder-offload"
    MODEL_OFFLOAD = "model-offload"

    @property
    def tiled(self) -> bool:
        """Whether the VAE decodes in tiles of 512 px."""
        return self is not Strategy.RESIDENT


@dataclass(frozen=True)
class ModelShape:
    """The figures of a model that memory depends on; the names are those of its configuration."""

    transformer_parameters: int
    encoder_parameters: int
    vae_parameters: int
    dim: int
    heads: int
    layers: int
    refiner_layers: int
    caption_dim: int
    rope_dims: tuple[int, ...]
    rope_lengths: tuple[int, ...]
    encoder_hidden: int
    encoder_intermediate: int
    encoder_layers: int
    encoder_heads: int
    encoder_kv_heads: int
    encoder_head_dim: int
    vocabulary: int
    vae_channels: tuple[int, ...]
    vae_layers: int
    latent_channels: int

    @property
    def feed_forward(self) -> int:
        """As ZImageTransformerBlock computes it."""
        return int(self.dim / 3 * 8)


# Tongyi-MAI/Z-Image and Z-Image-Turbo: the same shape. Parameters counted on the real configuration.
Z_IMAGE = ModelShape(
    transformer_parameters=6_154_908_736,
    encoder_parameters=4_022_468_096,
    vae_parameters=83_819_683,
    dim=3840,
    heads=30,
    layers=30,
    refiner_layers=2,
    caption_dim=2560,
    rope_dims=(32, 48, 48),
    rope_lengths=(1536, 512, 512),
    encoder_hidden=2560,
    encoder_intermediate=9728,
    encoder_layers=36,
    encoder_heads=32,
    encoder_kv_heads=8,
    encoder_head_dim=128,
    vocabulary=151_936,
    vae_channels=(128, 256, 512, 512),
    vae_layers=2,
    latent_channels=16,
)


@dataclass(frozen=True)
class Work:
    """The largest work that has to fit: pictures of one size, made together."""

    width_px: int
    height_px: int
    batch: int = 1
    # Guidance above 0 runs the transformer on twice the batch.
    guided: bool = False
    prompt_tokens: int = PROMPT_TOKENS

    @property
    def pixels(self) -> int:
        """Of one picture."""
        return self.width_px * self.height_px


@dataclass(frozen=True)
class Need:
    """What a strategy takes on the GPU for some work, in bytes."""

    strategy: Strategy
    # Weights and activations that live together at each stage's peak.
    encode_bytes: int
    denoise_bytes: int
    decode_bytes: int
    # The most of the three: what torch.cuda.max_memory_allocated would show.
    peak_bytes: int
    # With what the allocator reserves beyond that, and the context: has to fit.
    needed_bytes: int
    # Weights that wait outside of the GPU.
    host_bytes: int


@dataclass(frozen=True)
class Plan:
    """The answer: the fastest strategy that fits, or None, and what would fit."""

    work: Work
    gpu_bytes: int
    needs: tuple[Need, ...]
    chosen: Need | None
    # The largest square that fits with the chosen strategy (0 where nothing fits), and with any.
    largest_pixels: int
    largest_pixels_of_any: int

    @property
    def headroom_bytes(self) -> int:
        """What is left; negative where even the last strategy does not fit."""
        return self.gpu_bytes - (self.chosen or self.needs[-1]).needed_bytes


def weights_bytes(shape: ModelShape) -> tuple[int, int, int]:
    """Text encoder, transformer, VAE."""
    parameters = (shape.encoder_parameters, shape.transformer_parameters, shape.vae_parameters)
    encoder, transformer, vae = (count * NUMBER_BYTES for count in parameters)
    return encoder, transformer, vae


def padded(tokens: int) -> int:
    """Caption tokens as the transformer sees them."""
    return -(-tokens // CAPTION_STEP_TOKENS) * CAPTION_STEP_TOKENS


def image_tokens(width_px: int, height_px: int) -> int:
    """Image tokens as the transformer sees them: padded like the caption."""
    return padded((width_px // TOKEN_PX) * (height_px // TOKEN_PX))


def encode_activations_bytes(shape: ModelShape, work: Work) -> int:
    """In the feed-forward of the encoder's last layer.

    A token holds every layer's hidden state and its keys and values (the cache is on), three
    tensors of the feed-forward, the residual and its norm, the rotary tables, a row of the mask.
    """
    tokens = work.prompt_tokens
    states = shape.encoder_layers * shape.encoder_hidden
    cache = shape.encoder_layers * 2 * shape.encoder_kv_heads * shape.encoder_head_dim
    here = 3 * shape.encoder_intermediate + 2 * shape.encoder_hidden + 2 * shape.encoder_head_dim
    return work.batch * tokens * (NUMBER_BYTES * (states + cache + here) + tokens)


def denoise_activations_bytes(shape: ModelShape, work: Work) -> int:
    """In the feed-forward of a transformer block.

    A token holds four tensors of the feed-forward, five of the width (the image alone, image and
    caption together, their padded copy, the residual, its norm), complex rotary factors twice,
    and 152 B of patches and positions. The rotary tables themselves come once.
    """
    tokens = image_tokens(work.width_px, work.height_px) + padded(work.prompt_tokens)
    numbers = 4 * shape.feed_forward + 5 * shape.dim
    token_bytes = NUMBER_BYTES * numbers + 8 * shape.dim // shape.heads + 152
    tables = sum(8 * length * dims // 2 for length, dims in zip(shape.rope_lengths, shape.rope_dims, strict=True))
    return work.batch * (2 if work.guided else 1) * tokens * token_bytes + tables


def decode_pixel_bytes(shape: ModelShape) -> int:
    """A pixel in the VAE's decoder: three tensors as wide as a block's input, or five of its output."""
    wide = [*shape.vae_channels, shape.vae_channels[-1]]
    live = (max(3 * before, 5 * after) for after, before in pairwise(wide))
    return max((NUMBER_BYTES * numbers) >> (2 * level) for level, numbers in enumerate(live))


def decode_activations_bytes(shape: ModelShape, work: Work, tiled: bool) -> int:
    """The whole picture at once, or one tile, with what is finished of the others.

    Tiles are no larger than the picture: below 512 px tiling changes nothing.
    """
    if not tiled or max(work.width_px, work.height_px) <= TILE_PX:
        return work.batch * decode_pixel_bytes(shape) * work.pixels
    columns, rows = list(tiles(work.width_px)), list(tiles(work.height_px))
    picture_bytes = 3 * NUMBER_BYTES
    latents = work.pixels // LATENT_PX**2 * shape.latent_channels * NUMBER_BYTES
    # While the last full tile is decoded, the rows above it and the tiles left of it are kept.
    row, column = rows.count(max(rows)) - 1, columns.count(max(columns)) - 1
    kept = sum(rows[:row]) * sum(columns) + rows[row] * sum(columns[:column])
    tile = decode_pixel_bytes(shape) * max(rows) * max(columns)
    # At the end: all tiles, the blended rows, and the picture. Larger only from 6000 px on.
    joined = picture_bytes * (sum(rows) * sum(columns) + 2 * work.pixels)
    return work.batch * (latents + max(tile + picture_bytes * kept, joined))


def tiles(side_px: int) -> Iterator[int]:
    """The lengths of the tiles along a side."""
    for begin in range(0, side_px, TILE_STEP_PX):
        yield min(TILE_PX, side_px - begin)


def need(shape: ModelShape, work: Work, strategy: Strategy) -> Need:
    """What one strategy takes."""
    encoder, transformer, vae = weights_bytes(shape)
    # While layers are moved in one after the other, the largest is the table of words.
    moving = min(encoder, shape.vocabulary * shape.encoder_hidden * NUMBER_BYTES)
    everything = encoder + transformer + vae
    weights = {
        Strategy.RESIDENT: (everything, everything, everything),
        Strategy.TILED: (everything, everything, everything),
        Strategy.ENCODER_OFFLOAD: (transformer + vae + moving, transformer + vae, transformer + vae),
        Strategy.MODEL_OFFLOAD: (encoder, transformer, vae),
    }[strategy]
    activations = (
        encode_activations_bytes(shape, work),
        denoise_activations_bytes(shape, work),
        decode_activations_bytes(shape, work, strategy.tiled),
    )
    encode, denoise, decode = (held + live for held, live in zip(weights, activations, strict=True))
    factors = (OTHER_RESERVE, OTHER_RESERVE, DECODE_RESERVE)
    reserved = [held + int(live * factor) for held, live, factor in zip(weights, activations, factors, strict=True)]
    host = {Strategy.ENCODER_OFFLOAD: encoder, Strategy.MODEL_OFFLOAD: everything}.get(strategy, 0)
    peak = max(encode, denoise, decode)
    return Need(strategy, encode, denoise, decode, peak, max(reserved) + CONTEXT_BYTES, host)


def largest_square_px(shape: ModelShape, work: Work, strategy: Strategy, gpu_bytes: int) -> int:
    """The side of the largest square that fits, in pixels; 0 where none does. Memory grows with it."""
    low, high = 0, SIDE_MAX_PX // TOKEN_PX
    while low < high:
        side = (low + high + 1) // 2
        square = Work(side * TOKEN_PX, side * TOKEN_PX, work.batch, work.guided, work.prompt_tokens)
        if need(shape, square, strategy).needed_bytes <= gpu_bytes:
            low = side
        else:
            high = side - 1
    return low * TOKEN_PX


def plan(shape: ModelShape, work: Work, gpu_bytes: int) -> Plan:
    """The fastest strategy that fits into `gpu_bytes`, which is the whole device's memory."""
    needs = tuple(need(shape, work, strategy) for strategy in Strategy)
    squares = {strategy: largest_square_px(shape, work, strategy, gpu_bytes) ** 2 for strategy in Strategy}
    chosen = next((each for each in needs if each.needed_bytes <= gpu_bytes), None)
    own = squares[chosen.strategy] if chosen else 0
    # A long rectangle may be larger than the largest square of its area's neighbourhood.
    return Plan(work, gpu_bytes, needs, chosen, max(own, work.pixels) if chosen else 0, max(squares.values()))


def largest_work(pixels: int) -> Work:
    """The most that `serve` admits where a picture may have so many pixels: a square, alone, guided, a long prompt."""
    side = isqrt(pixels)
    side += (-side) % TOKEN_PX if side * side < pixels else 0
    return Work(side, side, guided=True, prompt_tokens=TOKENS_MAX)


def shape_of(
    transformer: Mapping[str, Any], encoder: Mapping[str, Any], vae: Mapping[str, Any], parameters: Mapping[str, int]
) -> ModelShape:
    """The shape of another model of the family, from its components' config.json and their sizes.

    Raises:
        KeyError, TypeError, ValueError: they are no such configurations.
    """
    heads = int(encoder["num_attention_heads"])
    return ModelShape(
        transformer_parameters=parameters["transformer"],
        encoder_parameters=parameters["text_encoder"],
        vae_parameters=parameters["vae"],
        dim=int(transformer["dim"]),
        heads=int(transformer["n_heads"]),
        layers=int(transformer["n_layers"]),
        refiner_layers=int(transformer["n_refiner_layers"]),
        caption_dim=int(transformer["cap_feat_dim"]),
        rope_dims=tuple(int(each) for each in transformer["axes_dims"]),
        rope_lengths=tuple(int(each) for each in transformer["axes_lens"]),
        encoder_hidden=int(encoder["hidden_size"]),
        encoder_intermediate=int(encoder["intermediate_size"]),
        encoder_layers=int(encoder["num_hidden_layers"]),
        encoder_heads=heads,
        encoder_kv_heads=int(encoder["num_key_value_heads"]),
        encoder_head_dim=int(encoder.get("head_dim") or int(encoder["hidden_size"]) // heads),
        vocabulary=int(encoder["vocab_size"]),
        vae_channels=tuple(int(each) for each in vae["block_out_channels"]),
        vae_layers=int(vae["layers_per_block"]),
        latent_channels=int(vae["latent_channels"]),
    )
