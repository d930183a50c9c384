"""GET /v1/models: the one model, as OpenAI lists models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from ..dependencies import TheCaller, TheParts
from ..images import MODEL_ID

router = APIRouter()


@router.get("/v1/models")
async def models(_caller: TheCaller, parts: TheParts) -> dict[str, Any]:
    """What may stand in `model`."""
    model = {"id": MODEL_ID, "object": "model", "created": 0, "owned_by": "zimage"}
    return {"object": "list", "data": [model | {"revision": parts.settings.model_revision}]}
