"""Every refusal, with its HTTP status: the one table.

WorkerError                     status  type                   code
├─ BadRequest                   400     invalid_request_error  invalid_value, …
├─ GrantRefused                 400     (as OAuth2 has it)     invalid_grant, invalid_request, …
│  ├─ GrantRateLimited          429     (as OAuth2 has it)     temporarily_unavailable
│  └─ GrantUnavailable          503     (as OAuth2 has it)     temporarily_unavailable
├─ Unauthenticated              401     authentication_error   invalid_credentials
├─ CrossSite                    403     invalid_request_error  cross_site
├─ VerifyRateLimited            403     rate_limit_error       rate_limit_exceeded
├─ NotFound                     404     invalid_request_error  not_found, model_not_found
├─ MethodNotAllowed             405     invalid_request_error  method_not_allowed
├─ ClientTooSlow                408     invalid_request_error  client_too_slow
├─ BodyTooLarge                 413     invalid_request_error  body_too_large
├─ UriTooLong                   414     invalid_request_error  uri_too_long
├─ UnsupportedMediaType         415     invalid_request_error  unsupported_media_type
├─ WrongHost                    421     invalid_request_error  wrong_host
├─ RateLimited                  429     rate_limit_error       rate_limit_exceeded
├─ QueueFull                    429     rate_limit_error       queue_full
├─ HeaderTooLarge               431     invalid_request_error  header_too_large
├─ GenerationFailed             500     server_error           generation_failed
├─ OutOfMemory                  503     server_error           out_of_memory
├─ NotReady                     503     server_error           not_ready, draining
│  └─ TooManyConnections        503     server_error           too_many_connections
└─ RequestTimedOut              504     server_error           request_timeout
"""

from __future__ import annotations

from typing import Any, ClassVar


class WorkerError(Exception):
    """Something the client is told, in the shape that the OpenAI clients read."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> list[tuple[str, str]]:
        """The headers that belong to this refusal; a name may stand more than once."""
        return [] if self.retry_after_seconds is None else [("Retry-After", str(self.retry_after_seconds))]


class BadRequest(WorkerError):
    """The request's content is wrong; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class Unauthenticated(WorkerError):
    """No credentials, or wrong ones: the same answer for every reason."""

    status = 401
    type = "authentication_error"
    code = "invalid_credentials"

    def __init__(self, basic: bool, bearer: bool, *, token_given: bool = False) -> None:
        """What is accepted here, and whether the client has come with a token."""
        ways = ["HTTP Basic authentication"] * basic + ["a Bearer token"] * bearer
        super().__init__(f"Valid credentials are needed: send {' or '.join(ways)}.")
        self.basic = basic
        self.bearer = bearer
        self.token_given = token_given

    def headers(self) -> list[tuple[str, str]]:
        """One challenge for each way in, without which browsers and clients do not ask.

        A client with a token is not asked for a password: a browser would open its own dialog over
        the page that only needs a new token. RFC 6750, 3.1 wants the error where a token was given.
        """
        if self.token_given:
            return [("WWW-Authenticate", 'Bearer realm="zimage", error="invalid_token"')]
        ways = ['Basic realm="zimage", charset="UTF-8"'] * self.basic + ['Bearer realm="zimage"'] * self.bearer
        return [("WWW-Authenticate", way) for way in ways]


class CrossSite(WorkerError):
    """A browser sends this for somebody else's page, perhaps with the credentials that it knows."""

    status = 403
    type = "invalid_request_error"
    code = "cross_site"


class VerifyRateLimited(WorkerError):
    """GET /auth/verify's 429: nginx' auth_request knows 2xx, 401 and 403, and makes a 500 of all else."""

    status = 403
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class GrantRefused(WorkerError):
    """POST /token's refusals, in the shape that OAuth2 clients read (RFC 6749, 5.2)."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"

    def body(self) -> dict[str, Any]:
        """Not OpenAI's: no client of theirs comes here."""
        return {"error": self.code, "error_description": self.message}

    def headers(self) -> list[tuple[str, str]]:
        """RFC 6749, 5.1 asks for Pragma beside Cache-Control."""
        return [*super().headers(), ("Pragma", "no-cache")]


class GrantRateLimited(GrantRefused):
    """Too many requests or wrong passwords. RFC 6749 has no code of its own for it."""

    status = 429
    type = "rate_limit_error"
    code = "temporarily_unavailable"


class GrantUnavailable(GrantRefused):
    """No key to sign with, or no user: the Secret is missing or damaged."""

    status = 503
    type = "server_error"
    code = "temporarily_unavailable"


class NotFound(WorkerError):
    """There is nothing at this path, or no such model."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(WorkerError):
    """The path exists, the method does not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    def headers(self) -> list[tuple[str, str]]:
        """RFC 9110 asks for Allow beside a 405."""
        return [("Allow", self.allow)]


class ClientTooSlow(WorkerError):
    """The request did not arrive in time; what was sent so far is thrown away."""

    status = 408
    type = "invalid_request_error"
    code = "client_too_slow"


class UriTooLong(WorkerError):
    """No path of ours is that long."""

    status = 414
    type = "invalid_request_error"
    code = "uri_too_long"


class HeaderTooLarge(WorkerError):
    """More bytes or fields than any honest header has."""

    status = 431
    type = "invalid_request_error"
    code = "header_too_large"


class BodyTooLarge(WorkerError):
    """More bytes than any honest request has."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class UnsupportedMediaType(WorkerError):
    """The body is not JSON, or it is compressed."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class WrongHost(WorkerError):
    """The Host header names somebody else."""

    status = 421
    type = "invalid_request_error"
    code = "wrong_host"


class RateLimited(WorkerError):
    """Too many requests from this address or user."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QueueFull(WorkerError):
    """Nobody waits in order to be refused."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class GenerationFailed(WorkerError):
    """The model broke on this request; the log says how."""

    code = "generation_failed"


class OutOfMemory(WorkerError):
    """This size does not fit the GPU now; a smaller one may."""

    status = 503
    code = "out_of_memory"

    def __init__(self, size: str, *, retry_after_seconds: int) -> None:
        message = f"The GPU has not enough memory for {size}; ask for a smaller size, or try again later."
        super().__init__(message, param="size", retry_after_seconds=retry_after_seconds)


class NotReady(WorkerError):
    """Loading, failed or draining: another replica, or later."""

    status = 503
    code = "not_ready"


class TooManyConnections(NotReady):
    """Each connection is somebody's request; there is no silent one to make room."""

    code = "too_many_connections"


class RequestTimedOut(WorkerError):
    """It waited and ran for longer than a request may."""

    status = 504
    code = "request_timeout"
