"""Which files of a repository the pipeline needs: weights as safetensors, tables and settings. Pure.

Never a pickle and never code: what is not fetched cannot be run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import NotServable

INDEX = "model_index.json"
PIPELINE = "ZImagePipeline"
# Components come from these or they would need code from the repository.
LIBRARIES = (["diffusers"], ["transformers"])
# Without the infix of a variant (`.fp16.`): from_pretrained reads the plain names.
WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-[0-9]{5}-of-[0-9]{5})?\.safetensors")
WEIGHTS_INDEX = re.compile(r"(diffusion_pytorch_model|model)\.safetensors\.index\.json")
PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle|msgpack|h5)")
# What tokenizers, schedulers and models write beside their weights.
PLAIN = re.compile(r"[A-Za-z0-9_.-]+\.(json|txt|jinja)")
COMPONENT = re.compile(r"[a-z][a-z0-9_]*")
NEEDS_WEIGHTS = ("transformer", "text_encoder", "vae")


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub; `digest` is its SHA-256, or `git:` and git's SHA-1 of small files."""

    path: str
    size_bytes: int
    digest: str

    @property
    def is_weights(self) -> bool:
        """Whether it holds tensors."""
        return self.path.endswith(".safetensors")

    @property
    def is_index(self) -> bool:
        """Whether it lists the shards of a component."""
        return self.path.endswith(".safetensors.index.json")


def components(index: Mapping[str, Any]) -> list[str]:
    """The folders that the pipeline is made of, from model_index.json.

    Raises:
        NotServable: it is another pipeline, or one with code of its own.
    """
    kind = index.get("_class_name")
    if kind != PIPELINE:
        raise NotServable(f"the repository holds a {str(kind)[:80]}, and this worker serves {PIPELINE} only")
    named = {name: value for name, value in index.items() if COMPONENT.fullmatch(name) and isinstance(value, list)}
    for name, value in named.items():
        if value[:1] != [None] and value[:1] not in LIBRARIES:
            raise NotServable(f"its {name} needs code from the repository ({str(value[:1])[:80]}), which is never run")
    return sorted(name for name, value in named.items() if value[:1] != [None])


def needed(files: Iterable[RemoteFile], folders: Iterable[str]) -> list[RemoteFile]:
    """The files to fetch, small ones first: mistakes show before the hours of download. The lists
    of shards come last, because they say how large the saved shards are.

    Raises:
        NotServable: a component has no safetensors.
    """
    known, wanted = list(files), set(folders)
    chosen = [file for file in known if file.path == INDEX or belongs(file.path, wanted)]
    for folder in NEEDS_WEIGHTS:
        if not any(file.is_weights and file.path.startswith(f"{folder}/") for file in chosen):
            raise NotServable(f"{folder}/ has no safetensors{pickled(known, folder)}; choose another revision")
    return sorted(chosen, key=lambda file: (file.is_index, file.is_weights, file.path))


def belongs(path: str, folders: set[str]) -> bool:
    """Whether a path is a component's own file."""
    folder, _, name = path.partition("/")
    if folder not in folders or "/" in name:
        return False
    if name.endswith((".safetensors", ".safetensors.index.json")):
        return bool(WEIGHTS.fullmatch(name) or WEIGHTS_INDEX.fullmatch(name))
    return bool(PLAIN.fullmatch(name))


def pickled(files: list[RemoteFile], folder: str) -> str:
    """Says so where there are weights in a form that can run code."""
    has = any(PICKLES.fullmatch(file.path) for file in files if file.path.startswith(f"{folder}/"))
    return ", only pickled weights, which can run code and are never read" if has else ""
