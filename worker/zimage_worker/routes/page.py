"""GET / and its files: the page for people. It talks to the same API as everybody else."""

from __future__ import annotations

from functools import cache
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from .. import assets
from ..assets import Asset
from ..dependencies import TheParts, known_caller
from ..errors import NotFound

# For people: no part of the API's document.
router = APIRouter(include_in_schema=False)

# Nothing but the page's own files, and pictures that its script has made; no frame, no plug-in, no form
# that leaves, no text that becomes code. Why the page is open in some modes: docs/decisions/0150-the-page.md.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Kept, but asked about each time: after an update no old script meets a new page.
    "Cache-Control": "private, no-cache",
}


async def visitor(request: Request, parts: TheParts) -> None:
    """Known, or a stranger who finds a form to sign in: the files say nothing of this service.

    Raises:
        Unauthenticated: in mode Basic, so that the browser asks.
    """
    if not assets.signs_in(parts.settings.auth):
        await known_caller(request)


@cache
def files(ways: str) -> dict[str, Asset]:
    """Read once for each set of ways in; a process has one."""
    return dict(assets.page(ways))


Visitor = Annotated[None, Depends(visitor)]


@router.api_route("/", methods=["GET", "HEAD"], response_class=Response)
async def index(request: Request, parts: TheParts, _visitor: Visitor) -> Response:
    """The page itself."""
    return file("index.html", request, parts)


@router.api_route("/page/{name}", methods=["GET", "HEAD"], response_class=Response)
async def page_file(name: str, request: Request, parts: TheParts, _visitor: Visitor) -> Response:
    """One of its files, by its bare name.

    Raises:
        NotFound: there is none.
    """
    return file(name, request, parts)


def file(name: str, request: Request, parts: TheParts) -> Response:
    """A file, or the word that the browser's copy is still good."""
    found = files(assets.sign_in_ways(parts.settings.auth)).get(name)
    if found is None:
        raise NotFound("There is nothing here.")
    headers = {**HEADERS, "ETag": found.etag}
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)
