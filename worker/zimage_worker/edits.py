"""Edits: a form with a picture becomes an order. The only place where a stranger's picture is opened.

Slow and hungry: never on the event loop, one at a time (encoding.py).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from PIL import Image, ImageChops, ImageOps
from PIL.Image import DecompressionBombError, Resampling

from .errors import BadRequest
from .images import IGNORED, SIDE_MAX_PX, SIDE_STEP_PX, Edit, Fields, ImageOrder, parse_fields, refuse
from .settings import Limits

# What OpenAI takes. Each further format is a further decoder in front of strangers.
FORMATS = ("PNG", "JPEG", "WEBP")
# 4096 x 4096: what phones take, some 190 MB while it is decoded and turned. It is scaled down to the order's size.
INPUT_MAX_PIXELS = 4096 * 4096
# The pipelines' own defaults: some of the picture stays, or nothing inside the mask.
STRENGTH = 0.6
STRENGTH_MASKED = 1.0
# Less than one step of a hundred is no edit, and no step at all is an error in the pipeline.
STRENGTH_MIN = 0.01
# Fields of a form are text; these are numbers and truths in OpenAI's contract.
NUMBERS = {"n", "seed", "steps", "guidance_scale", "strength", "output_compression", "partial_images"}
TRUTHS = {"stream", "progress"}
NUMBER = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
EDIT_IGNORED: Mapping[str, tuple[object, ...]] = {**IGNORED, "input_fidelity": ("low", "high")}


@dataclass(frozen=True)
class Form:
    """A form's parts: text and files by name."""

    texts: Mapping[str, str]
    files: Mapping[str, list[bytes]]


def typed(name: str, text: str) -> object:
    """What the text would have been in JSON; text that is no number stays, and is refused with its name."""
    if name in NUMBERS and NUMBER.fullmatch(text):
        return json.loads(text.lstrip("0") or "0") if text.isdigit() else float(text)
    if name in TRUTHS and text in {"true", "false"}:
        return text == "true"
    return text


def parse_edit(form: Form, accept: str, limits: Limits) -> ImageOrder:
    """A form as an order, its pictures decoded.

    Raises:
        BadRequest: with the parameter's name.
        NotFound: another model is asked for.
    """
    picture, mask_file = files(form)
    fields = Fields({name: typed(name, text) for name, text in form.texts.items() if text or name == "prompt"})
    default = STRENGTH if mask_file is None else STRENGTH_MASKED
    strength = fields.number("strength", default, 1.0)
    if strength < STRENGTH_MIN:
        refuse("strength", f"it must lie between {STRENGTH_MIN} and 1")
    source = opened("image", picture)
    # Everything cheap is checked before a single pixel is decoded.
    order = parse_fields(fields, accept, limits, fitted(oriented_size(source), limits), EDIT_IGNORED)
    size = (order.width_px, order.height_px)
    image = decoded("image", source)
    mask = None if mask_file is None else masked(mask_file, image.size)
    flat = ImageOps.fit(flattened(image), size, Resampling.LANCZOS)
    fitting = None if mask is None else ImageOps.fit(mask, size, Resampling.BILINEAR)
    return replace(order, edit=Edit(flat, fitting, strength))


def files(form: Form) -> tuple[bytes, bytes | None]:
    """The one picture, and the mask if there is one."""
    for name in form.files:
        if name not in {"image", "image[]", "mask"}:
            shown = "".join(letter if letter.isprintable() else "?" for letter in name[:60])
            raise BadRequest(f"Unknown file: {shown}", param=shown, code="unknown_parameter")
    pictures = [*form.files.get("image", []), *form.files.get("image[]", [])]
    masks = form.files.get("mask", [])
    if not pictures:
        refuse("image", "it is needed: send a PNG, JPEG or WebP file")
    if len(pictures) > 1:
        refuse("image", "this model takes one picture")
    if len(masks) > 1:
        refuse("mask", "send one mask")
    return pictures[0], masks[0] if masks else None


def opened(name: str, content: bytes) -> Image.Image:
    """The header of a picture; no pixel is decoded yet."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except DecompressionBombError:
        refuse(name, f"it has more than {INPUT_MAX_PIXELS} pixels")
    except Exception:
        # Decoders raise anything; none of it is the client's business.
        refuse(name, "it is no PNG, JPEG or WebP picture, or it is damaged")
    if image.width * image.height > INPUT_MAX_PIXELS:
        refuse(name, f"{image.width}x{image.height} are more than {INPUT_MAX_PIXELS} pixels")
    return image


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as the camera was held."""
    try:
        turned = image.getexif().get(0x0112) in {5, 6, 7, 8}
    except Exception:
        turned = False
    return (image.height, image.width) if turned else image.size


def decoded(name: str, image: Image.Image) -> Image.Image:
    """The first frame's pixels, upright, as RGBA or RGB with 8 bits."""
    try:
        image.load()
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception:
            # Damaged EXIF: the picture itself is fine.
            image.info.pop("exif", None)
        if image.mode.startswith("I") or image.mode == "F":
            # 16 bit: Pillow would clip instead of scaling. point() on mode I takes a straight line only.
            image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        transparent = "A" in image.getbands() or "transparency" in image.info
        return image.convert("RGBA" if transparent else "RGB")
    except Exception:
        refuse(name, "it is damaged or cut off")


def flattened(image: Image.Image) -> Image.Image:
    """On white: the model knows no transparency."""
    if image.mode != "RGBA":
        return image
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def masked(content: bytes, size: tuple[int, int]) -> Image.Image:
    """White where the mask is transparent: that is what OpenAI calls "to be edited"."""
    source = opened("mask", content)
    if oriented_size(source) != size:
        refuse("mask", f"it is {source.width}x{source.height}, but the picture is {size[0]}x{size[1]}")
    mask = decoded("mask", source)
    if mask.mode != "RGBA":
        refuse("mask", "it has no transparency; make transparent what is to be edited")
    white = ImageChops.invert(mask.getchannel("A"))
    if white.getextrema()[1] == 0:
        refuse("mask", "nothing of it is transparent, so there is nothing to edit")
    return white


def fitted(size: tuple[int, int], limits: Limits) -> tuple[int, int]:
    """The size that `auto` means for an edit: the picture's own, in steps of 16 px, within the limit."""
    shrink = min(1.0, (limits.max_pixels / (size[0] * size[1])) ** 0.5)
    width, height = (max(SIDE_STEP_PX, int(side * shrink) // SIDE_STEP_PX * SIDE_STEP_PX) for side in size)
    # A strip of 16 px may still be too long: for the limit, or for the model's position table.
    longest = min(SIDE_MAX_PX, limits.max_pixels // SIDE_STEP_PX // SIDE_STEP_PX * SIDE_STEP_PX)
    return min(width, longest), min(height, longest)


def pasted(edit: Edit, made: Image.Image) -> Image.Image:
    """Outside the mask the picture keeps its own pixels: the model's decoder would change them a little."""
    return made if edit.mask is None else Image.composite(made, edit.image, edit.mask)
