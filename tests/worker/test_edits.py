"""Pictures from strangers: what parse_edit makes of them, and the whole way through the real process."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import openai
import pytest
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from zimage_worker.edits import Form, fitted, parse_edit
from zimage_worker.errors import BadRequest
from zimage_worker.settings import Limits

AUTH = ("alice", "canary-password-7f3a")
LIMITS = Limits(max_pixels=256 * 256, max_steps=50, max_images=4)
PATH = "/v1/images/edits"


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def drawing(size: tuple[int, int] = (96, 64), mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", size, "navy")
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2, size[1]), fill="orange")
    return image.convert(mode)


def hole(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Transparent in its right half."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    ImageDraw.Draw(mask).rectangle((size[0] // 2, 0, size[0], size[1]), fill=(0, 0, 0, 0))
    return mask


def parse(image: bytes, mask: bytes | None = None, **texts: str):
    files = {"image": [image]} if mask is None else {"image": [image], "mask": [mask]}
    return parse_edit(Form({"prompt": "a fox", **texts}, files), "", LIMITS)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(rows or bytes(64 * 1024))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def text_bomb() -> bytes:
    info = PngInfo()
    for number in range(80):
        info.add_text(f"k{number}", "x" * 1_000_000, zip=True)
    return saved(drawing(), pnginfo=info)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(drawing(), "JPEG", exif=exif)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><script>1</script></svg>'
GOOD: list[tuple[str, bytes, tuple[int, int]]] = [
    ("png", saved(drawing()), (96, 64)),
    ("jpeg", saved(drawing(), "JPEG"), (96, 64)),
    ("webp", saved(drawing(), "WEBP"), (96, 64)),
    ("cmyk", saved(drawing(mode="CMYK"), "JPEG"), (96, 64)),
    ("grey", saved(drawing(mode="L")), (96, 64)),
    ("one bit", saved(drawing(mode="1")), (96, 64)),
    ("palette", saved(drawing(mode="P")), (96, 64)),
    ("palette with transparency", saved(drawing(mode="P"), transparency=0), (96, 64)),
    ("alpha", saved(drawing(mode="RGBA")), (96, 64)),
    ("grey and alpha", saved(drawing(mode="LA")), (96, 64)),
    ("16 bit", saved(Image.new("I;16", (96, 64), 40000)), (96, 64)),
    ("turned", turned(), (64, 96)),
    ("animated png", saved(drawing(), save_all=True, append_images=[drawing(mode="L").convert("RGB")]), (96, 64)),
    ("animated webp", saved(drawing(), "WEBP", save_all=True, append_images=[drawing()]), (96, 64)),
    ("odd size", saved(drawing((300, 200))), (288, 192)),
    ("larger than the limit", saved(drawing((1200, 600)), "JPEG"), (352, 176)),
    ("one pixel", saved(drawing((1, 1))), (16, 16)),
    ("fewer rows than it says", png_of(64, 64, b"\0" * 90), (64, 64)),
    ("a strip", saved(drawing((5000, 2))), (4096, 16)),
]
BAD: list[tuple[str, bytes]] = [
    ("empty", b""), ("text", b"hello"), ("svg", SVG), ("gif", saved(drawing(mode="P"), "GIF")),
    ("bmp", saved(drawing(), "BMP")), ("tiff", saved(drawing(), "TIFF")), ("ico", saved(drawing((32, 32)), "ICO")),
    ("pdf", saved(drawing(), "PDF")), ("bomb of 2.5 billion pixels", png_of(50_000, 50_000)),
    ("17 million pixels", png_of(4200, 4200)), ("more pixels than 32 bits", png_of(2**31 - 1, 2**31 - 1)),
    ("no pixel", png_of(0, 10)),
    ("cut off png", saved(drawing((256, 256)).effect_spread(9))[:-900]),
    ("cut off jpeg", saved(drawing((256, 256)), "JPEG")[:-500]), ("cut off webp", saved(drawing(), "WEBP")[:-20]),
    ("only a header", saved(drawing())[:40]), ("80 MB of text in a small file", text_bomb()),
    ("a header that lies", b"\x89PNG\r\n\x1a\n" + b"\0" * 200),
]  # fmt: skip


@pytest.mark.parametrize(("content", "size"), [each[1:] for each in GOOD], ids=[each[0] for each in GOOD])
def test_every_honest_picture_becomes_rgb_in_steps_of_16(content: bytes, size: tuple[int, int]) -> None:
    order = parse(content)
    assert order.edit
    assert (order.width_px, order.height_px) == order.edit.image.size == size
    assert (order.edit.image.mode, order.edit.mask, order.edit.strength) == ("RGB", None, 0.6)


@pytest.mark.parametrize("content", [each[1] for each in BAD], ids=[each[0] for each in BAD])
@pytest.mark.parametrize("name", ["image", "mask"])
def test_a_bad_picture_is_refused_by_name(content: bytes, name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(*((content,) if name == "image" else (saved(drawing()), content)))
    assert caught.value.param == name
    assert len(caught.value.message) < 200


def test_what_the_pixels_mean() -> None:
    assert parse(saved(drawing())).edit.image.getpixel((10, 10)) == (255, 165, 0)
    assert parse(saved(Image.new("I;16", (96, 64), 40000))).edit.image.getpixel((5, 5)) == (156, 156, 156)
    # Transparent is white.
    assert parse(saved(Image.new("RGBA", (64, 64), (9, 9, 9, 0)))).edit.image.getpixel((5, 5)) == (255, 255, 255)
    # Orange was on the left; turned clockwise it is on top.
    up = parse(turned()).edit.image
    assert up.getpixel((32, 5))[0] > 200
    assert up.getpixel((32, 90))[0] < 60


def test_transparent_in_the_mask_is_white_in_the_order() -> None:
    edit = parse(saved(drawing()), saved(hole()), size="192x128").edit
    assert (edit.mask.size, edit.mask.getpixel((10, 60)), edit.mask.getpixel((180, 60))) == ((192, 128), 0, 255)
    assert edit.strength == 1.0


@pytest.mark.parametrize(
    "mask",
    [saved(hole((64, 64))), saved(drawing()), saved(drawing(mode="RGBA")), saved(hole().convert("RGB"), "JPEG")],
)
def test_a_mask_that_fits_not_or_masks_nothing_is_refused(mask: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(saved(drawing()), mask)
    assert caught.value.param == "mask"


@pytest.mark.parametrize(
    ("texts", "param"),
    [
        ({"strength": "0"}, "strength"), ({"strength": "1.1"}, "strength"), ({"strength": "x"}, "strength"),
        ({"strength": "9" * 390}, "strength"), ({"strength": "1e999"}, "strength"), ({"strength": "nan"}, "strength"),
        ({"n": "0"}, "n"), ({"n": "1.5"}, "n"), ({"n": ""}, None), ({"n": "٣"}, "n"), ({"n": "9" * 5000}, "n"),
        ({"seed": "-1"}, "seed"), ({"seed": "007"}, None), ({"steps": "51"}, "steps"), ({"size": "17x17"}, "size"),
        ({"size": "4096x4096"}, "size"), ({"prompt": ""}, "prompt"), ({"prompt": "a\0b"}, "prompt"),
        ({"stream": "yes"}, "stream"), ({"stream": "false"}, None), ({"partial_images": "1"}, "partial_images"),
        ({"input_fidelity": "high"}, None), ({"input_fidelity": "best"}, "input_fidelity"), ({"sede": "1"}, "sede"),
        ({"output_format": "gif"}, "output_format"), ({"quality": "high"}, None), ({"user": "u"}, None),
    ],
)  # fmt: skip
def test_the_fields_of_a_form(texts: dict[str, str], param: str | None) -> None:
    if param is None:
        assert parse(saved(drawing()), **texts)
        return
    with pytest.raises(BadRequest) as caught:
        parse(saved(drawing()), **texts)
    assert caught.value.param == param


@pytest.mark.parametrize("size", [(1, 1), (1, 9999), (9999, 1), (640, 480), (4096, 4096), (16, 4096), (257, 255)])
@pytest.mark.parametrize("most", [256, 65536, 1024 * 1024])
def test_auto_keeps_the_shape_within_the_limit(size: tuple[int, int], most: int) -> None:
    width, height = fitted(size, Limits(most, 1, 1))
    assert width % 16 == height % 16 == 0
    assert width >= 16
    assert height >= 16
    assert width * height <= most
    assert max(width, height) <= 8192


def edit(worker: Any, *, image: bytes | None = None, files: Any = None, auth: Any = AUTH, **texts: str):
    sent = files if files is not None else {"image": ("a.png", image or saved(drawing()), "image/png")}
    return worker.api.post(PATH, files=sent, data={"prompt": "a fox", "steps": "2", **texts}, auth=auth)


def picture(answer: Any) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))


def test_an_edit_of_the_real_process(worker) -> None:
    plain = edit(worker, seed="3", n="2")
    assert picture(plain).size == (96, 64)
    assert [each["seed"] for each in plain.json()["data"]] == [3, 4]
    used = plain.json()["usage"]
    assert (used["input_tokens_details"]["image_tokens"], used["output_tokens"]) == (24, 48)
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"]
    assert edit(worker, seed="3", strength="0.9").json()["data"] != plain.json()["data"]
    masked = {"image[]": saved(drawing()), "mask": saved(hole())}
    made = picture(edit(worker, files=masked, seed="3"))
    left, right = (0, 0, 47, 64), (48, 0, 96, 64)
    assert made.crop(left).tobytes() == drawing().crop(left).tobytes()
    assert made.crop(right).tobytes() != drawing().crop(right).tobytes()


def test_every_picture_of_a_stranger_through_the_real_process(worker) -> None:
    """The decoders in the process that serves: each honest one becomes a picture, each other one a 400 by name."""
    for name, content, size in GOOD:
        made = edit(worker, image=content, steps="1")
        assert (made.status_code, picture(made).size) == (200, size), name
    for name, content in BAD:
        for files in ({"image": content}, {"image": saved(drawing()), "mask": content}):
            refused = edit(worker, files=files)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, list(files)[-1]), name
    assert "Traceback" not in worker.logs()


@pytest.mark.parametrize(
    ("options", "status", "param"),
    [
        ({"image": png_of(50_000, 50_000)}, 400, "image"), ({"image": SVG}, 400, "image"), ({"n": "0"}, 400, "n"),
        ({"files": {"mask": saved(hole())}}, 400, "image"), ({"files": {"picture": b"x"}}, 400, "picture"),
        ({"files": [("image[]", saved(drawing())), ("image[]", saved(drawing()))]}, 400, "image"),
        ({"image": bytes(25 * 1024 * 1024)}, 413, None), ({"prompt": "x" * 100_000}, 400, None),
        ({"prompt": "x" * 10_000}, 400, "prompt"), ({"auth": ("alice", "x")}, 401, None),
        ({"model": "gpt-image-1"}, 404, "model"),
    ],
)  # fmt: skip
def test_bad_forms_are_refused_in_openai_s_shape(worker, options, status: int, param: str | None) -> None:
    answer = edit(worker, **options)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"prompt": "x"}', "application/json", 415), (b"x=1", "application/x-www-form-urlencoded", 415),
        (b"x", "multipart/form-data", 400), (b"x", FORM, 400), (b"--b\r\n\r\nx\r\n--b--\r\n", FORM, 400),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", FORM, 400),
        (b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n\xff', FORM, 400),
        (b"--b\r\n" * 1000, FORM, 400), (b"", FORM, 400), (b"x", FORM + "b" * 5000, 400),
        (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\xfe\r\n--b--\r\n',
         FORM + "; charset=utf-16", 400),
        (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--b--\r\n', FORM + "; charset=rot13", 400),
        (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n' * 2 + b"--b--\r\n", FORM, 400),
    ],
)  # fmt: skip
def test_what_is_no_form_is_no_500(worker, content: bytes, kind: str, status: int) -> None:
    answer = worker.api.post(PATH, content=content, headers={"Content-Type": kind}, auth=AUTH)
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_nothing_of_a_stranger_s_picture_is_kept(worker) -> None:
    """Twenty strangers with 20 MiB each: the process does not grow by even one of them."""

    def resident_mib() -> float:
        with open(f"/proc/{worker.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * 4096 / 2**20

    def pieces():
        for _ in range(20):
            yield bytes(2**20)
            grown.append(resident_mib() - before)

    before, grown = resident_mib(), []
    for number in range(5):
        headers = {"X-Forwarded-For": f"192.0.2.{number}", "Content-Type": "multipart/form-data; boundary=b"}
        assert worker.api.post(PATH, content=pieces(), headers=headers).status_code == 401
    assert max(grown) < 10


def test_a_bomb_costs_no_memory(worker) -> None:
    def peak_kib() -> int:
        with open(f"/proc/{worker.process.pid}/status") as status:
            return int(next(line for line in status if line.startswith("VmHWM")).split()[1])

    edit(worker)
    before = peak_kib()
    for bomb in (png_of(50_000, 50_000), png_of(4200, 4200), text_bomb()):
        assert edit(worker, image=bomb).status_code == 400
    assert peak_kib() - before < 120 * 1024


def test_openai_s_own_client_edits(worker) -> None:
    api = worker.openai()
    made = api.images.edit(
        image=("a.png", saved(drawing())), mask=("m.png", saved(hole())), prompt="a fox", output_format="webp",
        output_compression=60, extra_body={"steps": 2, "seed": 4, "strength": 0.8},
    )  # fmt: skip
    assert base64.b64decode(made.data[0].b64_json)[8:12] == b"WEBP"
    assert made.usage.input_tokens_details.image_tokens == 24
    masked = api.images.edit(
        image=("a.png", saved(drawing())), mask=("m.png", saved(hole())), prompt="a fox", size="auto",
        extra_body={"steps": 2},
    )  # fmt: skip
    left = (0, 0, 47, 64)
    with Image.open(io.BytesIO(base64.b64decode(masked.data[0].b64_json))) as image:
        assert image.crop(left).tobytes() == drawing().crop(left).tobytes()
    plain = api.images.edit(image=[("a.png", saved(drawing()))], prompt="a fox", n=2, extra_body={"steps": 1})
    assert len(plain.data) == 2
    with api.images.edit(
        image=("a.png", saved(drawing())), prompt="x", stream=True, partial_images=1, size="64x64",
        extra_body={"steps": 8},
    ) as told:  # fmt: skip
        assert [each.type for each in told] == ["image_edit.partial_image", "image_edit.completed"]
    with pytest.raises(openai.BadRequestError) as caught:
        api.images.edit(image=("a.svg", SVG), prompt="x")
    assert (caught.value.param, caught.value.code) == ("image", "invalid_value")
