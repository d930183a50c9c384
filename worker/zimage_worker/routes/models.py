"""GET /v1/models: the one model, as OpenAI lists models, with what may be asked of it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from .. import images
from ..dependencies import TheCaller, TheParts
from ..images import MODEL_ID
from ..settings import Limits

router = APIRouter()


@router.get("/v1/models")
async def models(_caller: TheCaller, parts: TheParts) -> dict[str, Any]:
    """What may stand in `model`."""
    model = {"id": MODEL_ID, "object": "model", "created": 0, "owned_by": "zimage"}
    extra = {"revision": parts.settings.model_revision, "limits": limits(parts.settings.limits)}
    return {"object": "list", "data": [model | extra]}


def limits(served: Limits) -> dict[str, int]:
    """What one request may ask for, and what it gets where it does not ask."""
    return {
        "max_pixels": served.max_pixels,
        "side_step_px": images.SIDE_STEP_PX,
        "side_max_px": images.SIDE_MAX_PX,
        "side_default_px": images.side(served),
        "max_steps": served.max_steps,
        "steps_default": images.steps(served),
        "max_images": served.max_images,
        "max_prompt_characters": images.PROMPT_MAX_CHARACTERS,
    }
