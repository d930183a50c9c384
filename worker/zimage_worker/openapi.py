"""The API as an OpenAPI document: for tests and for readers, never served. Pure.

FastAPI writes the frame; what the image routes read and answer is written here, from the same constants
that `images.py` and `edits.py` check with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .edits import EDIT_IGNORED, STRENGTH_MIN
from .images import FORMATS, GUIDANCE_MAX, IGNORED, PARTIAL_IMAGES_MAX, PROMPT_MAX_CHARACTERS, SEED_MAX
from .settings import Limits

Schema = dict[str, Any]

# Either is enough, where the mode takes it.
SCHEMES = ("basic", "bearer")

ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
# What OAuth2's clients read (RFC 6749, 5.1 and 5.2).
TOKEN: Schema = {
    "type": "object",
    "required": ["access_token", "token_type", "expires_in"],
    "additionalProperties": False,
    "properties": {
        "access_token": {"type": "string"},
        "token_type": {"const": "Bearer"},
        "expires_in": {"type": "integer", "minimum": 1},
    },
}
TOKEN_REFUSED: Schema = {
    "type": "object",
    "required": ["error", "error_description"],
    "additionalProperties": False,
    "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
}
COUNT: Schema = {"type": "integer", "minimum": 0}
DETAILS: Schema = {
    "type": "object",
    "required": ["text_tokens", "image_tokens"],
    "properties": {"text_tokens": COUNT, "image_tokens": COUNT},
}
USAGE: Schema = {
    "type": "object",
    "required": ["input_tokens", "output_tokens", "total_tokens", "input_tokens_details"],
    "properties": {
        "input_tokens": COUNT,
        "output_tokens": COUNT,
        "total_tokens": COUNT,
        "input_tokens_details": DETAILS,
        "output_tokens_details": DETAILS,
    },
}
IMAGES: Schema = {
    "type": "object",
    "required": ["created", "background", "output_format", "size", "steps", "model", "data", "usage"],
    "properties": {
        "created": COUNT,
        "background": {"const": "opaque"},
        "output_format": {"enum": list(FORMATS)},
        "size": {"type": "string", "pattern": "^[0-9]+x[0-9]+$"},
        "steps": {"type": "integer", "minimum": 1},
        "model": {"type": "string"},
        "data": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["b64_json", "seed"],
                "properties": {"b64_json": {"type": "string", "contentEncoding": "base64"}, "seed": COUNT},
            },
        },
        "usage": USAGE,
    },
}
MODELS: Schema = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "object", "created", "owned_by"],
                "properties": {
                    "id": {"type": "string"},
                    "object": {"const": "model"},
                    "created": COUNT,
                    "owned_by": {"type": "string"},
                },
            },
        },
    },
}
# One event of a stream; `data` is a JSON object whose `type` is the event's name.
EVENT: Schema = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {
            "enum": [
                *(f"image_{kind}.{what}" for kind in ("generation", "edit") for what in ("partial_image", "completed")),
                "zimage.queued",
                "zimage.progress",
                "error",
            ]
        },
        "data": {"type": "string", "pattern": '^{"type": "', "contentMediaType": "application/json"},
    },
}
STREAM = (
    "Server-Sent Events, with stream: true. OpenAI's partial_image, completed and error events; with "
    "progress: true also zimage.queued {position} and zimage.progress {step, steps, image}."
)


def optional(schema: Schema) -> Schema:
    """null means "not given" everywhere in OpenAI's contract."""
    return {"anyOf": [schema, {"type": "null"}]}


def order(limits: Limits, ignored: Mapping[str, tuple[object, ...]]) -> Schema:
    """The fields of a generation; rules between fields are in the descriptions of the refusals."""
    text = {"type": "string", "maxLength": PROMPT_MAX_CHARACTERS}
    fields: dict[str, Schema] = {
        "model": {"type": "string", "maxLength": 200},
        "n": {"type": "integer", "minimum": 1, "maximum": limits.max_images},
        "size": {"type": "string", "pattern": "^(auto|[0-9]{1,5}x[0-9]{1,5})$", "maxLength": 32},
        "seed": {"type": "integer", "minimum": 0, "maximum": SEED_MAX},
        "steps": {"type": "integer", "minimum": 1, "maximum": limits.max_steps},
        "guidance_scale": {"type": "number", "minimum": 0, "maximum": GUIDANCE_MAX},
        "negative_prompt": text,
        "output_format": {"enum": list(FORMATS)},
        "output_compression": {"type": "integer", "minimum": 0, "maximum": 100},
        "response_format": {"enum": ["b64_json"]},
        "stream": {"type": "boolean"},
        "partial_images": {"type": "integer", "minimum": 0, "maximum": PARTIAL_IMAGES_MAX},
        "progress": {"type": "boolean"},
        "user": {"type": "string", "maxLength": 512},
        **{name: {"enum": list(words)} for name, words in ignored.items()},
    }
    return {
        "type": "object",
        "required": ["prompt"],
        "additionalProperties": False,
        "properties": {"prompt": text | {"minLength": 1}, **{name: optional(each) for name, each in fields.items()}},
    }


def form(limits: Limits) -> Schema:
    """The fields of an edit: those of a generation, two files and how far to go."""
    schema = order(limits, EDIT_IGNORED)
    picture = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}
    # A form has no null: what is not given is not there.
    plain = {name: each.get("anyOf", [each])[0] for name, each in schema["properties"].items()}
    strength = {"type": "number", "minimum": STRENGTH_MIN, "maximum": 1}
    properties = {**plain, "image": picture, "image[]": picture, "mask": picture, "strength": strength}
    return {**schema, "properties": properties, "required": ["prompt"]}


def images(content: Mapping[str, Schema]) -> dict[str, Any]:
    """The operation of one of the image routes."""
    answers: dict[str, Any] = {"application/json": {"schema": IMAGES}}
    answers |= {f"image/{name}": {"schema": {"type": "string", "format": "binary"}} for name in FORMATS}
    answers["text/event-stream"] = {"schema": EVENT}
    return {
        "requestBody": {"required": True, "content": {kind: {"schema": each} for kind, each in content.items()}},
        "responses": {"200": {"description": f"The images. {STREAM}", "content": answers}},
    }


def document(frame: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """FastAPI's document with the truth about bodies, answers and errors."""
    own: dict[str, dict[str, Any]] = {
        "/v1/images/generations": {"post": images({"application/json": order(limits, IGNORED)})},
        "/v1/images/edits": {"post": images({"multipart/form-data": form(limits)})},
        "/v1/models": {"get": answered("application/json", MODELS)},
        "/healthz": {"get": {**answered("text/plain", {"type": "string", "maxLength": 0}), "security": []}},
        "/token": {"post": {**answered("application/json", TOKEN), "security": []}},
    }
    for path, methods in frame["paths"].items():
        for method, operation in methods.items():
            operation.update(own.get(path, {}).get(method, {}))
            # What is refused before the route is refused alike everywhere.
            refusal = {"anyOf": [TOKEN_REFUSED, ERROR]} if path == "/token" else ERROR
            operation["responses"]["default"] = answer("Refused or failed.", "application/json", refusal)
    schemes = {"securitySchemes": {name: {"type": "http", "scheme": name} for name in SCHEMES}}
    security: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]
    return {**frame, "security": security, "components": frame.get("components", {}) | schemes}


def answer(what: str, kind: str, schema: Schema) -> dict[str, Any]:
    """One answer with a body."""
    return {"description": what, "content": {kind: {"schema": schema}}}


def answered(kind: str, schema: Schema) -> dict[str, Any]:
    """An operation without a body."""
    return {"responses": {"200": answer("The answer.", kind, schema)}}
