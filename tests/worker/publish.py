"""Writes a tiny model as the real one is published (transformer in float32 shards) and a picture of it.

publish.py MODEL PICTURE. A program and no fixture: torch stays out of the tests' own process.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

from zimage_worker import tiny
from zimage_worker.engines import zimage
from zimage_worker.images import parse_order
from zimage_worker.settings import Limits

ORDER = b'{"prompt":"a red fox","size":"64x64","steps":2,"seed":7}'


def nobody(_event: object) -> None:
    """Nobody listens to what the engine tells."""


def main() -> None:
    model, picture = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(5)
    words = tiny.tokenizer()
    # Real float32 values: rounding them is what the fetch has to do as torch does.
    diffusion = tiny.transformer().eval()
    decoder, encoder = (part.to(torch.bfloat16).eval() for part in (tiny.vae(), tiny.text_encoder(len(words))))
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False)
    ZImagePipeline(
        scheduler=scheduler, vae=decoder, text_encoder=encoder, tokenizer=words, transformer=diffusion
    ).save_pretrained(str(model))
    (model / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    diffusion.save_pretrained(str(model / "transformer"), max_shard_size="500KB")
    engine = zimage.load(model, "cpu", None, 64, 4096, nobody, nobody)
    made = engine.generate(parse_order(ORDER, "", Limits(4096, 50, 1)), 7, threading.Event(), nobody)
    made.pictures[0].image.save(picture)
    # What must not be fetched.
    for path in ("transformer/diffusion_pytorch_model.bin", "pipeline.py", "README.md", "assets/a.png"):
        (model / path).parent.mkdir(exist_ok=True)
        (model / path).write_bytes(b"canary: never fetched")
    variant = (model / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    (model / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(variant)
    (model / "scheduler" / "scheduling_own.py").write_bytes(b"canary: never fetched")


main()
