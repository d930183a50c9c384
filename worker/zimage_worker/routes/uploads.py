"""Reading a form with pictures: bounded, in memory, and only for callers who are known."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ..dependencies import ClientGone, Parts
from ..edits import Form
from ..errors import BadRequest, UnsupportedMediaType
from ..images import ImageOrder
from ..middleware import BODY_MAX_BYTES
from ..settings import BODY_MOST_BYTES

# One picture and a mask; more are refused by name, not by count.
FILES_MAX = 16
FIELDS_MAX = 64


class InMemory(MultiPartParser):
    """Starlette's parser without its temporary files: the pod's root is read-only, and the body is bounded."""

    spool_max_size = BODY_MOST_BYTES + 1


async def uploaded(request: Request, parts: Parts) -> ImageOrder:
    """The form as an order; the body's bytes are gone when this returns.

    Raises:
        WorkerError: refused; errors.py says which status.
        ClientGone: the client left in the middle.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise UnsupportedMediaType("Send the form as Content-Type: multipart/form-data.", param="content-type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Send the body uncompressed.", param="content-encoding")
    # A chunked body is as long as it likes, whatever length stands beside it.
    chunked = "transfer-encoding" in request.headers
    length_bytes = parts.settings.max_body_bytes if chunked else int(request.headers.get("content-length", 0))
    with parts.uploads.held(length_bytes):
        form = await read(request)
        return await parts.encoder.read(form, request.headers.get("accept", ""), parts.settings.limits)


async def read(request: Request) -> Form:
    """Texts and files by their names."""
    limits = {"max_files": FILES_MAX, "max_fields": FIELDS_MAX, "max_part_size": BODY_MAX_BYTES}
    texts: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    try:
        form = await InMemory(request.headers, request.stream(), **limits).parse()
    except MultiPartException as error:
        raise BadRequest(f"The form is not valid: {error.message}", code="invalid_form") from None
    except ClientDisconnect:
        raise ClientGone from None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.setdefault(name, []).append(await value.read())
        elif name in texts:
            raise BadRequest(f"{name[:60]}: it is there twice", param=name[:60])
        else:
            texts[name] = value
    await form.close()
    return Form(texts, files)
