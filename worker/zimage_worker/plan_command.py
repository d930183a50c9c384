"""`zimage-worker plan`: the memory plan as a table that explains each number, or as JSON."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from . import memory_plan
from .memory_plan import CONTEXT_BYTES, GIB, SIDE_MAX_PX, TOKEN_PX, Z_IMAGE, ModelShape, Need, Plan, Strategy, Work
from .roofline import PEAK_TFLOPS, Flop, flop, seconds
from .settings import quantity_bytes

# What the roofline assumes of the caption, where memory has to assume the longest.
CAPTION_TOKENS = 128
# What well-kept kernels reach of a device's peak; published figures lie between 0.55 and 0.65.
EXPECTED_SHARE = 0.6
DOES_NOT_FIT = 1
WRONG_USE = 2
NO_GPU = 3

MEANING = {
    Strategy.RESIDENT: "all weights on the GPU, the picture decoded at once",
    Strategy.TILED: "all weights on the GPU, the picture decoded in tiles of 512 px (its pixels differ a little)",
    Strategy.ENCODER_OFFLOAD: "the text encoder in host memory, moved in layer by layer for each new prompt; tiles",
    Strategy.MODEL_OFFLOAD: "every model in host memory, moved in for its part of each picture (some 20 GB); tiles",
}


@dataclass(frozen=True)
class Question:
    """What was asked."""

    name: str
    shape: ModelShape
    work: Work
    gpu_bytes: int
    steps: int


def add(commands: Any) -> None:
    """The command's arguments."""
    parser = commands.add_parser("plan", help="predict GPU memory and the least time, without a GPU")
    parser.add_argument("--gpu-memory", required=True, type=quantity, help="a quantity such as 24Gi")
    parser.add_argument("--size", default="1024x1024", type=dimensions, help="WIDTHxHEIGHT in pixels")
    parser.add_argument("--batch", default=1, type=positive, help="pictures made together (serve: always 1)")
    parser.add_argument("--steps", default=8, type=positive, help="for the time; Turbo's 8 by default")
    parser.add_argument("--guided", action="store_true", help="guidance above 0: twice the batch (serve plans so)")
    parser.add_argument("--prompt-tokens", default=memory_plan.PROMPT_TOKENS, type=positive, help="512, or 1024")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the shape of this folder's model, not Z-Image's")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--check", action="store_true", help="hold it against the GPU of this machine")
    parser.set_defaults(run=run)


def quantity(text: str) -> int:
    """For argparse."""
    try:
        return quantity_bytes(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no quantity; write for example 24Gi") from None


def positive(text: str) -> int:
    """For argparse."""
    if text.isascii() and text.isdigit() and 0 < int(text[:9]) <= 4096:
        return int(text[:9])
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1 to 4096")


def dimensions(text: str) -> tuple[int, int]:
    """For argparse."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text, re.ASCII)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if any(side % TOKEN_PX or not TOKEN_PX <= side <= SIDE_MAX_PX for side in sides):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: write sides that are multiples of 16 up to 8192: 1024x1024")
    return sides


def run(arguments: argparse.Namespace) -> int:
    """0 where it fits, 1 where nothing does, 2 for wrong use, 3 where --check finds no GPU."""
    try:
        question = asked(arguments)
    except ValueError as error:
        print(f"zimage-worker plan: {error}", file=sys.stderr)
        return WRONG_USE
    answer = memory_plan.plan(question.shape, question.work, question.gpu_bytes)
    found = checked(answer) if arguments.check else None
    if arguments.json:
        print(json.dumps(document(question, answer, found), indent=1))
    else:
        print("\n".join([*table(question, answer), *(check_lines(found, answer) if arguments.check else [])]))
    if arguments.check and found is None:
        return NO_GPU
    return 0 if answer.chosen and (found is None or found["fits"]) else DOES_NOT_FIT


def asked(arguments: argparse.Namespace) -> Question:
    """The question.

    Raises:
        ValueError: the model's folder does not tell.
    """
    width, height = arguments.size
    work = Work(width, height, arguments.batch, arguments.guided, arguments.prompt_tokens)
    name, shape = "Z-Image", Z_IMAGE
    if arguments.model:
        from .shape_files import ShapeUnknown, shape_in

        try:
            name, shape = str(arguments.model), shape_in(arguments.model)
        except ShapeUnknown as error:
            raise ValueError(str(error)) from error
    return Question(name, shape, work, arguments.gpu_memory, arguments.steps)


def arithmetic(question: Question) -> Flop:
    """For the roofline."""
    return flop(question.shape, question.work, min(CAPTION_TOKENS, question.work.prompt_tokens))


def gib(count: float) -> str:
    """GiB; MiB would be more honest for tiny models, so small figures get more digits."""
    return f"{count / GIB:9.2f}" if abs(count) >= GIB / 100 or not count else f"{count / GIB:9.5f}"


def square(pixels: int) -> str:
    """A pixel count as the square that it is."""
    side = isqrt(pixels) // TOKEN_PX * TOKEN_PX
    return f"{side}x{side}" if side else "none"


def verdict(question: Question, answer: Plan) -> str:
    """The first line that matters."""
    if answer.chosen:
        return f"{answer.chosen.strategy}: {MEANING[answer.chosen.strategy]}"
    if answer.largest_pixels_of_any:
        return f"refuse: does not fit; the largest square that does is {square(answer.largest_pixels_of_any)}"
    least = min(need.needed_bytes for need in answer.needs) / GIB
    return f"refuse: no picture fits; this one needs {least:.1f} GiB at least"


def table(question: Question, answer: Plan) -> list[str]:
    """Everything for a person."""
    work, total = question.work, arithmetic(question)
    guidance = "with guidance" if work.guided else "without guidance"
    lines = [
        f"{question.name}, {work.width_px}x{work.height_px}, batch {work.batch}, {guidance}, "
        f"on {question.gpu_bytes / GIB:.1f} GiB",
        verdict(question, answer),
        "",
        "      GiB  what",
    ]
    lines += [f"{gib(count)}  {what}" for count, what in explained(question, answer)]
    lines += ["", "   needed  headroom  largest    strategy"]
    for need in answer.needs:
        largest = square(memory_plan.largest_square_px(question.shape, work, need.strategy, answer.gpu_bytes) ** 2)
        mark = "  <- chosen" if need is answer.chosen else ""
        left = gib(answer.gpu_bytes - need.needed_bytes)
        lines.append(f"{gib(need.needed_bytes)} {left}  {largest:10} {need.strategy}{mark}")
    lines += [
        "",
        f"{total.total(question.steps) / 1e12:.1f} TFLOP: encoder {total.encode / 1e12:.1f}, "
        f"{question.steps} steps of {total.step / 1e12:.1f}, decode {total.decode / 1e12:.1f}",
        "at least  expect    GPU (peak of dense bfloat16; expect = at 60 % of it, no offload)",
    ]
    for name, bound in seconds(total.total(question.steps)).items():
        lines.append(f"{bound:7.2f}s {bound / EXPECTED_SHARE:7.2f}s  {name} ({PEAK_TFLOPS[name]:g} TFLOP/s)")
    return lines


def explained(question: Question, answer: Plan) -> list[tuple[float, str]]:
    """Each number, what it is and where it comes from."""
    shape, work = question.shape, question.work
    need = answer.chosen or answer.needs[-1]
    encoder, transformer, vae = memory_plan.weights_bytes(shape)
    encode = memory_plan.encode_activations_bytes(shape, work)
    denoise = memory_plan.denoise_activations_bytes(shape, work)
    decode = memory_plan.decode_activations_bytes(shape, work, need.strategy.tiled)
    tokens = memory_plan.image_tokens(work.width_px, work.height_px)
    how = "in tiles of 512 px" if need.strategy.tiled else "at once"
    twice = ", twice for guidance" if work.guided else ""
    return [
        (encoder, f"weights of the text encoder: {shape.encoder_parameters / 1e9:.3f} G numbers of 2 B (bfloat16)"),
        (transformer, f"weights of the transformer: {shape.transformer_parameters / 1e9:.3f} G numbers of 2 B"),
        (vae, f"weights of the VAE: {shape.vae_parameters / 1e9:.3f} G numbers of 2 B"),
        (encode, f"live while encoding {work.prompt_tokens} prompt tokens (padded): hidden states, cache, last layer"),
        (denoise, f"live in a transformer block: {tokens} image and {work.prompt_tokens} caption tokens{twice}"),
        (decode, f"live while decoding {how}: {memory_plan.decode_pixel_bytes(shape)} B a pixel of what is decoded"),
        (need.peak_bytes, "PEAK: the most of encoding, denoising, decoding; torch's max_memory_allocated shows it"),
        (
            need.needed_bytes - need.peak_bytes - CONTEXT_BYTES,
            f"reserve of the allocator: decode x {memory_plan.DECODE_RESERVE} (measured by InvokeAI), "
            f"else x {memory_plan.OTHER_RESERVE} (a guess)",
        ),
        (CONTEXT_BYTES, "CUDA's context and work spaces, outside of the allocator (a guess from 0.5 to 1)"),
        (need.needed_bytes, f"NEEDED with {need.strategy}"),
        (answer.gpu_bytes, "given"),
        (answer.headroom_bytes, "headroom"),
        (need.host_bytes, "host memory for weights outside of the GPU: raise the container's limit by that"),
    ]


def need_document(need: Need, answer: Plan) -> dict[str, Any]:
    """One strategy for machines."""
    return {
        "strategy": need.strategy,
        "encodeBytes": need.encode_bytes,
        "denoiseBytes": need.denoise_bytes,
        "decodeBytes": need.decode_bytes,
        "peakBytes": need.peak_bytes,
        "neededBytes": need.needed_bytes,
        "hostBytes": need.host_bytes,
        "fits": need.needed_bytes <= answer.gpu_bytes,
    }


def document(question: Question, answer: Plan, found: dict[str, Any] | None) -> dict[str, Any]:
    """The same as the table, for machines; bytes, pixels and seconds."""
    work, total = question.work, arithmetic(question)
    encoder, transformer, vae = memory_plan.weights_bytes(question.shape)
    return {
        "model": question.name,
        "size": f"{work.width_px}x{work.height_px}",
        "batch": work.batch,
        "guided": work.guided,
        "promptTokens": work.prompt_tokens,
        "gpuMemoryBytes": answer.gpu_bytes,
        "strategy": answer.chosen.strategy if answer.chosen else "refuse",
        "peakBytes": answer.chosen.peak_bytes if answer.chosen else None,
        "neededBytes": answer.chosen.needed_bytes if answer.chosen else None,
        "headroomBytes": answer.headroom_bytes,
        "largestPixels": answer.largest_pixels,
        "largestPixelsOfAnyStrategy": answer.largest_pixels_of_any,
        "weightsBytes": {"textEncoder": encoder, "transformer": transformer, "vae": vae},
        "contextBytes": CONTEXT_BYTES,
        "strategies": [need_document(need, answer) for need in answer.needs],
        "flop": {"encode": total.encode, "step": total.step, "decode": total.decode, "steps": question.steps},
        "rooflineSeconds": {name: round(bound, 3) for name, bound in seconds(total.total(question.steps)).items()},
        **({"check": found} if found else {}),
    }


def checked(answer: Plan) -> dict[str, Any] | None:
    """The GPU of this machine against the plan; None where there is none."""
    from .engines.placement import device_facts

    facts = device_facts()
    if facts is None:
        return None
    name, free, total = facts
    needed = (answer.chosen or answer.needs[-1]).needed_bytes
    return {"gpu": name, "freeBytes": free, "totalBytes": total, "fits": bool(answer.chosen) and needed <= free}


def check_lines(found: dict[str, Any] | None, answer: Plan) -> list[str]:
    """What --check adds to the table."""
    if found is None:
        return ["", "check: there is no GPU here, so nothing was checked; all figures above are predictions"]
    fits = "it fits" if found["fits"] else "it does NOT fit"
    total, free = found["totalBytes"] / GIB, found["freeBytes"] / GIB
    return ["", f"check: {found['gpu']} has {total:.2f} GiB, {free:.2f} of them free now: {fits}"]
