"""Pictures to bytes, in a pool of its own: neither the event loop nor the GPU waits for zlib."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from PIL.Image import Image, Resampling
from PIL.PngImagePlugin import PngInfo

from .edits import Form, parse_edit
from .images import ImageOrder, Picture
from .settings import Limits

# Level 1 is a few per cent larger than 6 and faster (1024 x 1024: 243 against 274 ms).
PNG_LEVEL = 1
# OpenAI's default of 100 means "best"; 92 is where the eye stops seeing a difference.
DEFAULT_QUALITY = 92


def encoded(picture: Picture, order: ImageOrder, facts: Mapping[str, str]) -> bytes:
    """One picture in the asked format; PNG carries the facts as text chunks, never the prompt."""
    out = io.BytesIO()
    if order.format == "png":
        info = PngInfo()
        for name, value in {**facts, "seed": str(picture.seed)}.items():
            info.add_text(name, value)
        picture.image.save(out, "PNG", compress_level=PNG_LEVEL, pnginfo=info)
    else:
        quality = DEFAULT_QUALITY if order.compression is None else order.compression
        picture.image.save(out, order.format.upper(), quality=quality)
    return out.getvalue()


def enlarged(preview: Image, order: ImageOrder) -> bytes:
    """A preview in the size and format of the order, so that a client can put one in the other's place."""
    out = io.BytesIO()
    full = preview.resize((order.width_px, order.height_px), Resampling.BICUBIC)
    full.save(out, order.format.upper(), **({"compress_level": PNG_LEVEL} if order.format == "png" else {}))
    return out.getvalue()


class Encoder:
    """Two threads: one picture is encoded while another is, and the GPU goes on."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        # Hears of the seconds that each picture took, waiting not counted.
        self.observe = observe
        self.pool = ThreadPoolExecutor(2, thread_name_prefix="encode")
        # One: a picture of 4096 x 4096 takes 190 MB while it is decoded.
        self.decoding = ThreadPoolExecutor(1, thread_name_prefix="decode")

    async def encode(self, picture: Picture, order: ImageOrder, facts: Mapping[str, str]) -> bytes:
        """The bytes of one picture."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, self.timed, picture, order, facts)

    def timed(self, picture: Picture, order: ImageOrder, facts: Mapping[str, str]) -> bytes:
        """In the pool."""
        began = time.perf_counter()
        content = encoded(picture, order, facts)
        self.observe(time.perf_counter() - began)
        return content

    async def preview(self, preview: Image, order: ImageOrder) -> bytes:
        """The bytes of a preview."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, enlarged, preview, order)

    async def read(self, form: Form, accept: str, limits: Limits) -> ImageOrder:
        """A form as an order, its pictures decoded off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.decoding, parse_edit, form, accept, limits)
