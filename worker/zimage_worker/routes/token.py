"""POST /token: a password for a short-lived token. OAuth2's password form, RFC 6749, 4.3."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ..addresses import bucket
from ..auth import HEADER_MAX_CHARACTERS, USER_MAX_CHARACTERS, Basic
from ..dependencies import Parts, TheParts, limited
from ..errors import GrantRateLimited, GrantRefused, RateLimited

router = APIRouter()

# grant_type, username, password, scope, client_id, client_secret, and a few of a client's own.
FIELDS_MAX = 20
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["grant_type", "username", "password"],
                    "properties": {
                        "grant_type": {"type": "string", "enum": ["password"]},
                        "username": {"type": "string", "maxLength": USER_MAX_CHARACTERS},
                        "password": {"type": "string", "format": "password"},
                    },
                }
            }
        },
    }
}


@router.post("/token", response_class=Response, openapi_extra=FORM)
async def token(request: Request, parts: TheParts) -> Response:
    """Give a token for the name and the password of a Basic user.

    Raises:
        GrantRefused: and its kinds; errors.py says which status.
    """
    address, settings = request.scope["state"]["address"], parts.settings.auth.token
    assert settings is not None, "the route exists only where there is a signing key"
    try:
        limited(parts.addresses, bucket(address), "address", parts.metrics)
        basic = granted(await form(request))
        made = await parts.gate.token(basic, address, settings)
        if made is None:
            raise GrantRefused("The name or the password is wrong.", code="invalid_grant")
        spend(basic, request, parts)
    except RateLimited as error:
        raise GrantRateLimited(error.message, retry_after_seconds=error.retry_after_seconds) from error
    body = {"access_token": made, "token_type": "Bearer", "expires_in": settings.ttl_seconds}
    return JSONResponse(body, headers={"Pragma": "no-cache"})


def spend(basic: Basic, request: Request, parts: Parts) -> None:
    """The name is proved now: into the access log, and from the user's own rate."""
    request.scope["state"]["user"] = basic.user
    limited(parts.users, basic.user, "user", parts.metrics)


async def form(request: Request) -> dict[str, str]:
    """The fields, each once and none empty (RFC 6749, 3.2: an empty one counts as left out)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise GrantRefused("Send the body as Content-Type: application/x-www-form-urlencoded.")
    try:
        text = (await request.body()).decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:
        raise GrantRefused("The body is no form in UTF-8.") from None
    if len(dict(pairs)) != len(pairs):
        raise GrantRefused("A field stands twice.")
    return {name: value for name, value in pairs if value}


def granted(fields: dict[str, str]) -> Basic:
    """Whom the form names. Clients are not registered here: client_id and client_secret say nothing."""
    if "grant_type" not in fields:
        raise GrantRefused("grant_type is missing; the only one is password.")
    if fields["grant_type"] != "password":
        raise GrantRefused("The only grant_type is password.", code="unsupported_grant_type")
    if "scope" in fields:
        raise GrantRefused("There are no scopes; leave scope out.", code="invalid_scope")
    user, password = fields.get("username", ""), fields.get("password", "")
    if not 0 < len(user) <= USER_MAX_CHARACTERS or not 0 < len(password) <= HEADER_MAX_CHARACTERS:
        raise GrantRefused("username and password are needed.")
    return Basic(user, password)
