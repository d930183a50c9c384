"""`make bench-model`: cold load of the re-saved folder against the published layout, and the memory plan
against fake tensors of the real model.

Ratios within one run: the published layout (float32 shards) and what `fetch` makes of it are loaded in
turn, each in a process of its own with the files out of the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from zimage_worker.memory_plan import (
    Z_IMAGE,
    Work,
    decode_activations_bytes,
    denoise_activations_bytes,
    encode_activations_bytes,
)

ROOT = Path(__file__).parents[2]
ROUNDS = 3
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT / "worker"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

BUILD = """
import sys, torch
from pathlib import Path
from zimage_worker import tiny
from diffusers import ZImageTransformer2DModel
folder, layers = Path(sys.argv[1]), int(sys.argv[2])
tiny.write(folder)
(folder / "transformer/diffusion_pytorch_model.safetensors").unlink()
ZImageTransformer2DModel(all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=1536, n_layers=layers,
    n_refiner_layers=1, n_heads=12, n_kv_heads=12, cap_feat_dim=64, axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512],
).save_pretrained(str(folder / "transformer"), max_shard_size="1GB")
"""

# What the worker does at a load; then the same with every weight read, as a GPU needs it.
LOAD = """
import json, re, sys, time, torch
from diffusers import ZImagePipeline
def kib(name):
    return int(re.findall(rf"^{name}:\\s+([0-9]+) kB", open("/proc/self/status").read(), re.M)[0])
def load(folder):
    return ZImagePipeline.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True)
# The libraries import their classes at the first load: that is the start of a process, not of a model.
load(sys.argv[2])
before, began = kib("VmRSS"), time.perf_counter()
pipe = load(sys.argv[1])
seconds, grown = time.perf_counter() - began, kib("VmHWM") - before
for part in (pipe.transformer, pipe.text_encoder, pipe.vae):
    for each in part.parameters():
        each.view(torch.int16).sum()
print(json.dumps({"seconds": seconds, "peak_bytes": grown * 1024, "read_seconds": time.perf_counter() - began,
    "anonymous_bytes": kib("RssAnon") * 1024}))
"""


def program(text: str, *arguments: object) -> str:
    command = [sys.executable, "-c", text, *map(str, arguments)]
    # Their progress bars are no figures.
    quiet = {**ENVIRON, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    return subprocess.run(command, env=quiet, check=True, stdout=subprocess.PIPE, text=True).stdout


def dropped(folder: Path) -> None:
    """Out of the page cache, without root."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def resaved(published: Path, folder: Path) -> dict[str, Any]:
    """What `fetch` does with the files once they are here, without the network."""
    text = """
import sys, time
from pathlib import Path
from zimage_worker.fetch.command import peak_memory_bytes
from zimage_worker.fetch.fetching import save_index
from zimage_worker.fetch.tensors import read_header, save_bf16
source, target = Path(sys.argv[1]), Path(sys.argv[2])
began, written = time.perf_counter(), []
for path in sorted(source.rglob("*.safetensors")):
    if not read_header(path).in_bf16:
        save_bf16(path, target / path.relative_to(source), written.append)
for path in source.rglob("*.index.json"):
    save_index(path, target / path.relative_to(source))
seconds = time.perf_counter() - began
print(sum(written), seconds, peak_memory_bytes())
"""
    shutil.copytree(published, folder, copy_function=os.link)
    for path in [*folder.rglob("*.index.json"), *folder.glob("transformer/*.safetensors")]:
        path.unlink()
    count, seconds, peak = program(text, published, folder).split()
    return {"bytes": int(count), "seconds": float(seconds), "peak_bytes": int(peak)}


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def cold_load(layers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        published, fetched = Path(name) / "published", Path(name) / "fetched"
        program(BUILD, published, layers)
        warm = Path(name) / "warm"
        program(
            "import sys; from pathlib import Path; from zimage_worker import tiny; tiny.write(Path(sys.argv[1]))", warm
        )
        saving = resaved(published, fetched)
        runs: dict[str, list[dict[str, float]]] = {"published": [], "fetched": []}
        for _ in range(ROUNDS):
            for kind, folder in (("published", published), ("fetched", fetched)):
                dropped(folder)
                runs[kind].append(json.loads(program(LOAD, folder, warm)))
        middle = {
            kind: {key: statistics.median(run[key] for run in each) for key in each[0]} for kind, each in runs.items()
        }
        sizes = {"published": size_bytes(published), "fetched": size_bytes(fetched)}
    return {"middle": middle, "sizes": sizes, "saving": saving}


def show_load(found: dict[str, Any]) -> None:
    before, after = found["middle"]["published"], found["middle"]["fetched"]
    print(f"\ncold load, median of {ROUNDS}   published  re-saved     ratio  goal")
    print(
        f"{'bytes on the disk, GB':28}{found['sizes']['published'] / 1e9:9.2f} {found['sizes']['fetched'] / 1e9:9.2f}"
    )
    rows = [
        ("load (imports done), s", "seconds", 1, "10"),
        ("peak of host memory, MB", "peak_bytes", 1e6, "10"),
        ("and every weight read, s", "read_seconds", 1, "-"),
    ]
    for name, key, unit, goal in rows:
        print(f"{name:28}{before[key] / unit:9.2f} {after[key] / unit:9.2f} {before[key] / after[key]:8.1f}x  {goal}")
    saving = found["saving"]
    print(
        f"saving again: {saving['bytes'] / 1e9:.2f} GB in {saving['seconds']:.1f} s, "
        f"{saving['peak_bytes'] / 1e6:.0f} MB of memory at most"
    )


def plan_errors() -> list[tuple[str, str, int, int]]:
    """Every stage, size and batch: name, case, predicted, found."""
    sizes = [(side, side) for side in range(512, 2049, 256)] + [(1024, 768), (2048, 512), (1536, 1024)]
    cases = [
        {"kind": kind, "width": width, "height": height, "batch": batch, "tokens": 128, "tiled": tiled}
        for kind, tiled in (("denoise", False), ("decode", False), ("decode", True))
        for width, height in sizes
        for batch in (1, 2, 4, 8)
    ] + [
        {"kind": "encode", "width": 0, "height": 0, "batch": batch, "tokens": tokens, "tiled": False}
        for batch in (1, 8)
        for tokens in (64, 512, 1024)
    ]
    answers = subprocess.run(
        [sys.executable, ROOT / "tests/memory_oracle.py"],
        input=json.dumps({"questions": [{**case, "shape": "Z-Image"} for case in cases]}),
        env=ENVIRON, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    rows = []
    for each in json.loads(answers.stdout)["peaks"]:
        work = Work(each["width"], each["height"], each["batch"], prompt_tokens=each["tokens"])
        if each["kind"] == "decode":
            predicted = decode_activations_bytes(Z_IMAGE, work, each["tiled"])
        else:
            form = denoise_activations_bytes if each["kind"] == "denoise" else encode_activations_bytes
            predicted = form(Z_IMAGE, work)
        name = each["kind"] + (" in tiles" if each["tiled"] else "")
        rows.append((name, f"{each['width']}x{each['height']} b{each['batch']}", predicted, each["peak"]))
    return rows


def show_plan(rows: list[tuple[str, str, int, int]]) -> None:
    print("\nmemory plan against fake tensors  cases  worst error  at            goal")
    for name in dict.fromkeys(row[0] for row in rows):
        mine = [(abs(predicted / found - 1), case) for kind, case, predicted, found in rows if kind == name]
        worst, case = max(mine)
        print(f"{name:33} {len(mine):5}  {100 * worst:9.2f} %  {case:13} 2 %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=28, help="of the synthetic transformer; 28 are 3.5 GB in float32")
    parser.add_argument("--only", choices=["load", "plan"])
    arguments = parser.parse_args()
    began = time.monotonic()
    if arguments.only != "plan":
        show_load(cold_load(arguments.layers))
    if arguments.only != "load":
        show_plan(plan_errors())
    print(f"\nin all {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
