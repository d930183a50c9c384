"""safetensors in, the same tensors in bfloat16 out, piece by piece: 10 GB shards in some MB of memory.

The library writes whole dictionaries of tensors only, so the (small) format is written here:
8 bytes little-endian length, a JSON header, the bytes of the tensors one after the other.
numpy knows no bfloat16, but rounding to it is arithmetic on integers; torch is not needed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import NotServable

# What becomes bfloat16: the same types that from_pretrained(dtype=torch.bfloat16) casts.
CAST = {"F64": 8, "F32": 4, "F16": 2}
SIZES_BYTES = {**CAST, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
# The library's own limit for a header.
HEADER_MAX_BYTES = 100_000_000
PIECE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Tensor:
    """One tensor's place: offsets count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def saved_dtype(self) -> str:
        """The type that it is saved in."""
        return "BF16" if self.dtype in CAST else self.dtype

    @property
    def saved_bytes(self) -> int:
        """Its length there."""
        return prod(self.shape) * SIZES_BYTES[self.saved_dtype]


@dataclass(frozen=True)
class Header:
    """What stands before the tensors."""

    length: int
    metadata: Mapping[str, str]
    tensors: tuple[Tensor, ...]

    @property
    def in_bf16(self) -> bool:
        """Whether there is nothing to cast."""
        return all(tensor.dtype == tensor.saved_dtype for tensor in self.tensors)

    def saved(self) -> bytes:
        """The header of the file in bfloat16; wide types first, so that every tensor is aligned."""
        document: dict[str, Any] = {"__metadata__": dict(self.metadata)} if self.metadata else {}
        offset = 0
        for tensor in self.order():
            end = offset + tensor.saved_bytes
            document[tensor.name] = {"dtype": tensor.saved_dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        # As the library does it: the tensors begin at a multiple of 8.
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def order(self) -> list[Tensor]:
        """The tensors as they are saved."""
        return sorted(self.tensors, key=lambda tensor: (-SIZES_BYTES[tensor.saved_dtype], tensor.begin))

    @property
    def saved_size_bytes(self) -> int:
        """The whole file in bfloat16."""
        return len(self.saved()) + sum(tensor.saved_bytes for tensor in self.tensors)


def header_length(first: bytes, path: str) -> int:
    """The header's length from a file's first 8 bytes.

    Raises:
        NotServable: it is none.
    """
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or not 2 <= length <= HEADER_MAX_BYTES:
        raise NotServable(f"{path} is no safetensors file; choose another revision")
    return length


def parse_header(text: bytes, path: str) -> Header:
    """The header's JSON, held against itself.

    Raises:
        NotServable: it is none, or of a type that the worker does not serve.
    """
    try:
        document = json.loads(text)
        metadata = document.pop("__metadata__", {})
        tensors = [tensor(name, value) for name, value in document.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotServable(
            f"{path} is no safetensors file, or holds quantized tensors; choose another revision"
        ) from None
    place = 0
    for each in sorted(tensors, key=lambda item: item.begin):
        if each.begin != place or each.end - each.begin != prod(each.shape) * SIZES_BYTES[each.dtype]:
            raise NotServable(f"{path} has overlapping or missing tensors; choose another revision")
        place = each.end
    return Header(len(text), metadata, tuple(tensors))


def tensor(name: str, value: Mapping[str, Any]) -> Tensor:
    """One tensor's place.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    begin, end = (int(offset) for offset in value["data_offsets"])
    shape = tuple(int(length) for length in value["shape"])
    if value["dtype"] not in SIZES_BYTES or min(shape, default=0) < 0:
        raise ValueError(name)
    return Tensor(name, value["dtype"], shape, begin, end)


def read_header(path: Path) -> Header:
    """The header of a file on the disk.

    Raises:
        NotServable, OSError: there is none.
    """
    with path.open("rb") as file:
        length = header_length(file.read(8), path.name)
        return parse_header(file.read(length), path.name)


def save_bf16(source: Path, target: Path, told: Callable[[int], None]) -> str:
    """Write `source` in bfloat16 to `target` and return its SHA-256; `told` hears bytes written.

    Raises:
        OSError: the disk is full.
    """
    header = read_header(source)
    digest = hashlib.sha256()
    with source.open("rb", buffering=0) as reading, target.open("wb") as writing:
        for piece in pieces(header, reading):
            writing.write(piece)
            digest.update(piece)
            told(len(piece))
        writing.flush()
        os.fsync(writing.fileno())
    return digest.hexdigest()


def pieces(header: Header, reading: BinaryIO) -> Iterator[bytes]:
    """The new file from its first byte to its last."""
    yield header.saved()
    for each in header.order():
        reading.seek(8 + header.length + each.begin)
        left = each.end - each.begin
        while left:
            piece = reading.read(min(left, PIECE_BYTES))
            if not piece:
                raise OSError(f"{each.name}: the file is shorter than its header says")
            # A raw read may end anywhere; the pieces of a tensor must hold whole numbers.
            rest = -len(piece) % SIZES_BYTES[each.dtype]
            piece += reading.read(rest) if rest else b""
            left -= len(piece)
            yield cast(piece, each.dtype)


def cast(piece: bytes, dtype: str) -> bytes:
    """Round to bfloat16, to nearest and ties to even, as torch does; other types stay."""
    if dtype not in CAST:
        return piece
    numbers = np.frombuffer(piece, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype("<f4", copy=False)
    return rounded(numbers).tobytes()


def rounded(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper half of each float, after adding what rounds the lower half away."""
    bits = numbers.view("<u4")
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    upper: npt.NDArray[np.uint16] = ((bits + half) >> np.uint32(16)).astype("<u2")
    # Rounding could carry a NaN into an infinity: torch has one NaN for all.
    upper[np.isnan(numbers)] = 0x7FC0
    return upper
