"""The memory plan's oracle: the real configuration run on fake tensors, every living storage counted.

memory_oracle.py < questions.json > answers.json. A program of its own: torch stays out of the tests' process.
Parameters are not counted; storages are rounded to 512 B as CUDA's allocator does. The device is a
fake CPU: a CPU build makes no fake CUDA tensors, and `meta` would choose quadratic attention.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import Qwen3Config, Qwen3Model

from zimage_worker import tiny
from zimage_worker.__main__ import main
from zimage_worker.engines import Stopped, placement, zimage
from zimage_worker.images import parse_order
from zimage_worker.memory_plan import GIB, Z_IMAGE, ModelShape, Strategy
from zimage_worker.settings import Limits


class Living(TorchDispatchMode):
    """Counts storages from their birth to their death."""

    def __init__(self, parts: torch.nn.Module) -> None:
        super().__init__()
        self.known = {each.untyped_storage()._cdata for each in (*parts.parameters(), *parts.buffers())}
        self.living: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for each in tree_iter(made):
            if isinstance(each, torch.Tensor):
                self.born(each.untyped_storage())
        return made

    def born(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.known or key in self.living:
            return
        self.living[key] = -(-storage.nbytes() // 512) * 512
        self.now += self.living[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.died, key)

    def died(self, key: int) -> None:
        self.now -= self.living.pop(key, 0)


def nobody(_event: object) -> None:
    """Nobody listens to what the engine tells."""


def transformer(shape: ModelShape) -> Any:
    return ZImageTransformer2DModel(
        in_channels=shape.latent_channels, dim=shape.dim, n_layers=shape.layers, n_refiner_layers=shape.refiner_layers,
        n_heads=shape.heads, n_kv_heads=shape.heads, cap_feat_dim=shape.caption_dim,
        axes_dims=list(shape.rope_dims), axes_lens=list(shape.rope_lengths),
    )  # fmt: skip


def vae(shape: ModelShape) -> Any:
    blocks = len(shape.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=shape.vae_channels, layers_per_block=shape.vae_layers, sample_size=1024,
        latent_channels=shape.latent_channels, norm_num_groups=min(32, shape.vae_channels[0] // 2),
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159,
    )  # fmt: skip


def encoder(shape: ModelShape) -> Any:
    return Qwen3Model(
        Qwen3Config(
            vocab_size=shape.vocabulary, hidden_size=shape.encoder_hidden, head_dim=shape.encoder_head_dim,
            intermediate_size=shape.encoder_intermediate, num_hidden_layers=shape.encoder_layers,
            num_attention_heads=shape.encoder_heads, num_key_value_heads=shape.encoder_kv_heads,
            max_position_embeddings=40960, tie_word_embeddings=True,
        )
    )  # fmt: skip


MAKERS = {"denoise": transformer, "decode": vae, "encode": encoder}


def run(kind: str, part: Any, width: int, height: int, batch: int, tokens: int, tiled: bool) -> int:
    """The peak of one stage in bytes."""
    living = Living(part)
    if kind == "encode":
        ids, mask = torch.zeros(batch, tokens, dtype=torch.long), torch.ones(batch, tokens, dtype=torch.bool)
        with living:
            made = part(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
    elif kind == "denoise":
        latents = [torch.zeros(16, 1, height // 8, width // 8) for _ in range(batch)]
        captions = [torch.zeros(tokens, part.config.cap_feat_dim) for _ in range(batch)]
        with living:
            made = part(latents, torch.zeros(batch), captions, return_dict=False)
    else:
        part.disable_tiling()
        if tiled:
            part.enable_tiling()
            part.tile_sample_min_size, part.tile_latent_min_size = 512, 64
            # Row by row in Python: minutes on fake tensors, and in place, so that memory is the same.
            part.blend_v = part.blend_h = lambda _before, tile, _extent: tile
        with living:
            made = part.decode(torch.zeros(batch, 16, height // 8, width // 8), return_dict=False)
    del made
    gc.collect()
    return living.peak


def shape_named(name: str) -> ModelShape:
    return Z_IMAGE if name == "Z-Image" else ModelShape(**json.loads(name))


def answer(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each question with `peak` and `parameters`; a part is built once."""
    torch.set_default_dtype(torch.bfloat16)
    answers = []
    with FakeTensorMode(), torch.inference_mode():
        for name in dict.fromkeys(each["shape"] for each in questions):
            for kind, make in MAKERS.items():
                mine = [each for each in questions if (each["shape"], each["kind"]) == (name, kind)]
                part = make(shape_named(name)).eval() if mine else None
                for each in mine:
                    asked = {key: each[key] for key in ("width", "height", "batch", "tokens", "tiled")}
                    count = sum(parameter.numel() for parameter in part.parameters())
                    answers.append({**each, "peak": run(kind, part, **asked), "parameters": count})
    torch.set_default_dtype(torch.float32)
    return answers


class Recorded:
    """Stands for a pipeline on a device that is not here: notes what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.vae = self

    def enable_model_cpu_offload(self, device: str) -> None:
        self.calls.append(f"offload to {device}")

    def enable_tiling(self) -> None:
        self.calls.append("tiling")

    def to(self, device: str) -> None:
        self.calls.append(f"to {device}")


def placements(folder: Path) -> dict[str, Any]:
    """What the worker would do on GPUs of some sizes, and what it does on this CPU."""
    logging.disable(logging.CRITICAL)
    decisions: dict[str, Any] = {}
    for gib in (8, 12, 13, 16, 24, 32, 48, 80):
        for pixels in (1024 * 1024, 4096 * 4096):
            try:
                made = placement.decided(Z_IMAGE, gib * GIB, pixels)
                decisions[f"{gib} {pixels}"] = [made.strategy, made.largest_pixels, made.largest_side_px]
            except placement.DoesNotFit as error:
                decisions[f"{gib} {pixels}"] = str(error)
    calls = {}
    for strategy in (Strategy.RESIDENT, Strategy.TILED, Strategy.MODEL_OFFLOAD):
        pipeline = Recorded()
        placement.place(pipeline, "cuda", placement.Placement(strategy, 0, 0))
        calls[strategy] = [*pipeline.calls, getattr(pipeline, "tile_latent_min_size", 0)]
    return {"decisions": decisions, "calls": calls, "pictures": pictures(folder)}


def pictures(folder: Path) -> dict[str, Any]:
    """The same picture with the encoder offloaded, also after a client who left."""
    tiny.write(folder)
    found: dict[str, Any] = {"cpu has no plan": placement.placement_on(folder, "cpu", GIB, 4096) is None}
    order = parse_order(b'{"prompt":"a red fox","size":"640x512","steps":2}', "", Limits(640 * 640, 50, 1))
    for strategy in (None, Strategy.RESIDENT, Strategy.TILED, Strategy.ENCODER_OFFLOAD):
        placement_on, zimage.placement_on = (
            zimage.placement_on,
            lambda *_, it=strategy: placement.Placement(it, 0, 1024 * 1024) if it else None,
        )
        engine = zimage.load(folder, "cpu", None, 16, 640 * 640, nobody, nobody)
        zimage.placement_on = placement_on
        stop = threading.Event()
        stop.set()
        try:
            engine.generate(order, 3, stop, nobody)
        except Stopped:
            found[f"{strategy} stopped"] = True
        made = engine.generate(order, 3, threading.Event(), nobody)
        found[str(strategy)] = made.pictures[0].image.tobytes().hex()
    return found


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    out = {"peaks": answer(asked["questions"])}
    if "folder" in asked:
        out["placements"] = placements(Path(asked["folder"]))
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            out["check"] = [main(["plan", "--gpu-memory", "24Gi", "--check"]), shown]
        out["check"][1] = shown.getvalue()
    json.dump(out, sys.stdout)
