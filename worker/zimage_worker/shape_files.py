"""A model's shape from its folder: three small files and the headers of the weights. No torch."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from .fetch.errors import NotServable
from .fetch.tensors import read_header
from .memory_plan import ModelShape, shape_of

PARTS = ("transformer", "text_encoder", "vae")


class ShapeUnknown(Exception):
    """The folder does not tell; one line that says why."""


def shape_in(folder: Path) -> ModelShape:
    """The shape of the model in a folder.

    Raises:
        ShapeUnknown: it is no folder of this family.
    """
    try:
        configs = {part: config(folder / part) for part in PARTS}
        counts = {part: parameters(folder / part) for part in PARTS}
        return shape_of(configs["transformer"], configs["text_encoder"], configs["vae"], counts)
    except OSError as error:
        raise ShapeUnknown(f"{error.filename or folder}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, NotServable) as error:
        raise ShapeUnknown(f"{folder} is no Z-Image model: {type(error).__name__}: {error}") from error


def config(folder: Path) -> dict[str, Any]:
    """A component's config.json.

    Raises:
        OSError, ValueError: there is none.
    """
    document = json.loads((folder / "config.json").read_bytes())
    if not isinstance(document, dict):
        raise ValueError(f"{folder.name}/config.json is no object")
    return document


def parameters(folder: Path) -> int:
    """The numbers in a component's weights.

    Raises:
        OSError, NotServable: they cannot be read.
    """
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ValueError(f"{folder.name} has no safetensors")
    return sum(prod(tensor.shape) for shard in shards for tensor in read_header(shard).tensors)
