"""What a client may ask and what it gets: raw bytes become an ImageOrder here and nowhere else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from PIL.Image import Image

from .errors import BadRequest, NotFound
from .settings import Limits

Format = Literal["png", "jpeg", "webp"]
FORMATS: tuple[Format, ...] = ("png", "jpeg", "webp")

MODEL_ID = "z-image"
# What people call it: the released names, and ours.
MODEL_NAMES = {MODEL_ID, "zimage", "z-image-turbo", "tongyi-mai/z-image", "tongyi-mai/z-image-turbo"}

# One image token is 16 x 16 px (VAE factor 8, patch 2).
SIDE_STEP_PX = 16
# 512 positions a side in the model's table; beyond it a GPU fails for good, so it is refused here.
SIDE_MAX_PX = 8192
DEFAULT_SIDE_PX = 1024
# Turbo's own figure; guidance must be exactly 0 for it.
DEFAULT_STEPS = 8
# Long prompts are cut by the model at 512 or 1024 tokens; 2,000 characters are about that many.
PROMPT_MAX_CHARACTERS = 2000
# More than 20 gives burnt pictures with any model of this family; a guess, generous.
GUIDANCE_MAX = 20.0
SEED_MAX = 2**63 - 1

# OpenAI's parameters that mean nothing here but that its clients may send.
IGNORED: Mapping[str, tuple[object, ...]] = {
    "quality": ("auto", "standard", "hd", "low", "medium", "high"),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "style": ("vivid", "natural"),
}
# OpenAI's own bound.
PARTIAL_IMAGES_MAX = 3


@dataclass(frozen=True)
class Edit:
    """What an edit begins with: a picture, and where it may change, both in the order's size.

    `mask` is white where the picture is made anew; None is everywhere. `strength`, from 0 to 1: how far
    from the picture.
    """

    image: Image
    mask: Image | None
    strength: float


@dataclass(frozen=True)
class ImageOrder:
    """A request that is already valid: sizes in pixels, nothing left to default but the seed."""

    prompt: str
    negative_prompt: str
    width_px: int
    height_px: int
    images: int
    steps: int
    guidance_scale: float
    seed: int | None
    format: Format
    compression: int | None
    bare: bool
    stream: bool
    partial_images: int
    progress: bool
    edit: Edit | None = None

    @property
    def size(self) -> str:
        """As OpenAI writes it."""
        return f"{self.width_px}x{self.height_px}"

    @property
    def steps_run(self) -> int:
        """The steps that are made: an edit begins in the middle, as far back as its strength goes."""
        strength = self.edit.strength if self.edit else 1.0
        # As the pipelines round it.
        return self.steps - int(max(self.steps - min(self.steps * strength, self.steps), 0))

    @property
    def events(self) -> str:
        """How the names of its events begin."""
        return "image_edit" if self.edit else "image_generation"


@dataclass(frozen=True)
class Picture:
    """One finished image and the seed that makes it again."""

    image: Image
    seed: int


@dataclass(frozen=True)
class Step:
    """One step is done: number `step` (from 1) of `steps`, of image `image` (from 0).

    `preview` is a coarse picture of what is coming, an eighth of the size, at the steps that
    were asked for; `partial` is its number.
    """

    image: int
    step: int
    steps: int
    preview: Image | None = None
    partial: int = 0


@dataclass(frozen=True)
class Moved:
    """The order's place in the queue: 1 is next, 0 has the GPU."""

    position: int


Progress = Step | Picture | Moved


def partial_steps(partial_images: int, steps: int) -> list[int]:
    """After which steps a preview is made: spread evenly, never after the last; fewer where steps are few."""
    wanted = {round(steps * (number + 1) / (partial_images + 1)) for number in range(partial_images)}
    return sorted(wanted - {0, steps})


def refuse(param: str, message: str) -> NoReturn:
    """Say which parameter is wrong and what it may be."""
    raise BadRequest(f"{param}: {message}", param=param)


def no_constant(name: str) -> NoReturn:
    """NaN and Infinity are no JSON."""
    raise ValueError(f"{name} is no JSON value")


def json_object(body: bytes) -> dict[str, Any]:
    """The body as one JSON object, whatever nonsense it holds.

    Raises:
        BadRequest: it is none.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=no_constant)
    except UnicodeDecodeError:
        raise BadRequest("The body is not valid UTF-8.", code="invalid_json") from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.", code="invalid_json") from None
    except ValueError as error:
        # The decoder's text names a position, never the content.
        where = f"line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else "a number"
        raise BadRequest(f"The body is not valid JSON: {where}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise BadRequest('The body must be a JSON object such as {"prompt": "a red fox"}.', code="invalid_json")
    return value


class Fields:
    """Takes the known fields out of an object; what stays behind is unknown."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        # null means "not given" in OpenAI's contract.
        self.left = {name: value for name, value in raw.items() if value is not None}

    def text(self, name: str, default: str, longest: int) -> str:
        """Text that every later stage can carry."""
        value = self.left.pop(name, default)
        if not isinstance(value, str):
            refuse(name, "it must be a string")
        if len(value) > longest:
            refuse(name, f"it has {len(value)} characters; at most {longest} are accepted")
        if "\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            refuse(name, "it holds NUL or half a surrogate pair")
        return value

    def whole(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number in its range. A boolean is none, though Python thinks so."""
        value = self.left.pop(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            refuse(name, f"it must be a whole number from {low} to {high}")
        return value

    def number(self, name: str, default: float, high: float) -> float:
        """A finite number from 0 to `high`."""
        value = self.left.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(name, "it must be a number")
        # Compared before conversion: float() of a huge int raises OverflowError.
        if not 0 <= value <= high or not math.isfinite(value):
            refuse(name, f"it must lie between 0 and {high:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        """true or false; false where it is not given."""
        value = self.left.pop(name, False)
        if not isinstance(value, bool):
            refuse(name, "it must be true or false")
        return value

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        """One of the given words."""
        value = self.left.pop(name, default)
        if not isinstance(value, str) or value not in allowed:
            refuse(name, f"it must be one of: {', '.join(allowed)}")
        return value

    def ignored(self, words: Mapping[str, tuple[object, ...]]) -> None:
        """Accept what has no meaning here only where ignoring it is honest."""
        for name, allowed in words.items():
            value = self.left.pop(name, allowed[0])
            if not any(value is word or (isinstance(word, str) and value == word) for word in allowed):
                refuse(name, f"only {' or '.join(str(word).lower() for word in allowed)} is served")
        self.text("user", "", 512)

    def nothing_left(self) -> None:
        """An unknown field is a typo more often than not."""
        for name in self.left:
            shown = "".join(letter if letter.isprintable() else "?" for letter in name[:60])
            raise BadRequest(f"Unknown parameter: {shown}", param=shown, code="unknown_parameter")


def side(limits: Limits) -> int:
    """The side of the square that `auto` means: the model's own size, or what the limit leaves."""
    return min(DEFAULT_SIDE_PX, math.isqrt(limits.max_pixels) // SIDE_STEP_PX * SIDE_STEP_PX)


def steps(limits: Limits) -> int:
    """The steps that are made where nobody asks for a number."""
    return min(DEFAULT_STEPS, limits.max_steps)


def dimensions(text: str, limits: Limits, auto: tuple[int, int]) -> tuple[int, int]:
    """`1024x768` or `auto` in pixels, within everything that the GPU would choke on."""
    if text == "auto":
        return auto
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text, re.ASCII)
    if not match:
        refuse("size", "it must be auto or WIDTHxHEIGHT in pixels, for example 1024x1024")
    width, height = int(match[1]), int(match[2])
    for length in (width, height):
        if length % SIDE_STEP_PX or not SIDE_STEP_PX <= length <= SIDE_MAX_PX:
            refuse("size", f"each side must be a multiple of {SIDE_STEP_PX} from {SIDE_STEP_PX} to {SIDE_MAX_PX}")
    if width * height > limits.max_pixels:
        refuse("size", f"{width * height} pixels are more than the {limits.max_pixels} that are served")
    return width, height


def accepted_format(accept: str) -> Format | Literal["any"] | None:
    """The image type that `Accept` asks for before JSON; None where JSON is wanted."""
    for part in accept.lower().split(","):
        kind = part.split(";")[0].strip()
        if kind in {"application/json", "*/*", "application/*"}:
            return None
        if kind == "image/*":
            return "any"
        for name in FORMATS:
            if kind == f"image/{name}":
                return name
    return None


def chosen_format(fields: Fields, accept: str) -> tuple[Format, bool]:
    """The format, and whether the bare image is the answer."""
    wanted = accepted_format(accept)
    default = wanted if wanted not in {None, "any"} else "png"
    name = fields.choice("output_format", str(default), FORMATS)
    if wanted not in {None, "any", name}:
        refuse("output_format", f"it says {name}, but the Accept header asks for image/{wanted}")
    return next(each for each in FORMATS if each == name), wanted is not None


def streamed(fields: Fields, bare: bool) -> tuple[bool, int, bool]:
    """`stream`, `partial_images` and our `progress`; the last two are for streams alone."""
    stream, partial_images = fields.flag("stream"), fields.whole("partial_images", 0, 0, PARTIAL_IMAGES_MAX) or 0
    progress = fields.flag("progress")
    if stream and bare:
        refuse("stream", "a bare image cannot be streamed; ask for application/json or text/event-stream")
    if partial_images and not stream:
        refuse("partial_images", "it is for stream: true only")
    if progress and not stream:
        refuse("progress", "it is for stream: true only")
    return stream, partial_images, progress


def parse_order(body: bytes, accept: str, limits: Limits) -> ImageOrder:
    """The body of a generation as an order.

    Raises:
        BadRequest: with the parameter's name.
        NotFound: another model is asked for.
    """
    square = side(limits)
    return parse_fields(Fields(json_object(body)), accept, limits, (square, square), IGNORED)


def parse_fields(
    fields: Fields, accept: str, limits: Limits, auto: tuple[int, int], ignored: Mapping[str, tuple[object, ...]]
) -> ImageOrder:
    """What generations and edits have in common; `auto` is the size in pixels that the word means.

    Raises:
        BadRequest, NotFound: as above.
    """
    prompt = fields.text("prompt", "", PROMPT_MAX_CHARACTERS)
    if not prompt.strip():
        refuse("prompt", "it is needed: describe the picture")
    model = fields.text("model", MODEL_ID, 200)
    if model.lower() not in MODEL_NAMES:
        raise NotFound(f"The model does not exist; this service has: {MODEL_ID}", param="model", code="model_not_found")
    width, height = dimensions(fields.text("size", "auto", 32), limits, auto)
    fields.choice("response_format", "b64_json", ("b64_json",))
    kind, bare = chosen_format(fields, accept)
    images = fields.whole("n", 1, 1, limits.max_images) or 1
    if bare and images > 1:
        refuse("n", "a bare image is one image; ask for application/json to get more")
    compression = fields.whole("output_compression", None, 0, 100)
    if compression not in {None, 100} and kind == "png":
        refuse("output_compression", "it is for jpeg and webp only")
    stream, partial_images, progress = streamed(fields, bare)
    order = ImageOrder(
        prompt=prompt,
        negative_prompt=fields.text("negative_prompt", "", PROMPT_MAX_CHARACTERS),
        width_px=width,
        height_px=height,
        images=images,
        steps=fields.whole("steps", steps(limits), 1, limits.max_steps) or 1,
        guidance_scale=fields.number("guidance_scale", 0.0, GUIDANCE_MAX),
        seed=fields.whole("seed", None, 0, SEED_MAX),
        format=kind,
        compression=compression,
        bare=bare,
        stream=stream,
        partial_images=partial_images,
        progress=progress,
    )
    fields.ignored(ignored)
    fields.nothing_left()
    return order
