"""GET /auth/verify: who is this? For a proxy that asks before it forwards (auth_request, forwardAuth)."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from ..admission import RateLimit
from ..dependencies import TheParts, known_caller, limited
from ..errors import RateLimited, VerifyRateLimited

router = APIRouter()

# A page is some ten requests, and a proxy asks for each of them. Per user alone: many users come
# from a proxy that does not tell their addresses.
REQUESTS_PER_LIMIT = 10
# Some proxies keep the method of the request that they ask about.
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# Printable ASCII but the percent sign stands for itself; so a name is never two headers, and is read back by unquote.
SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


def limit(per_minute: float, burst: int, clock: Callable[[], float]) -> RateLimit:
    """The rate of the API's own requests, times what a proxy asks for each of them."""
    return RateLimit(per_minute * REQUESTS_PER_LIMIT, burst * REQUESTS_PER_LIMIT, clock)


@router.api_route("/auth/verify", methods=METHODS, response_class=Response)
async def verify(request: Request, parts: TheParts) -> Response:
    """200 and X-Auth-User, or 401 with the challenge for the client; the API's own guess limits hold.

    Raises:
        Unauthenticated: no credentials, or wrong ones.
        VerifyRateLimited: too many wrong passwords, or too many questions.
    """
    try:
        caller = await known_caller(request)
        if caller.user:
            limited(parts.verifications, caller.user, "verify", parts.metrics)
    except RateLimited as error:
        raise VerifyRateLimited(error.message, retry_after_seconds=error.retry_after_seconds) from error
    return Response(headers={"X-Auth-User": quote(caller.user, safe=SAFE)} if caller.user else {})
