"""GET /healthz: says only that somebody is here, to anybody who asks under the right host name."""

from __future__ import annotations

from fastapi import APIRouter, Response

router = APIRouter()


@router.get("/healthz", response_class=Response)
async def healthz() -> Response:
    """Content-free on purpose; readiness is on the management port."""
    return Response(status_code=200, media_type="text/plain")
