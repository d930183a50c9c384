"""Every refusal, with its HTTP status: the one table.

WorkerError                     status  type                   code
├─ BadRequest                   400     invalid_request_error  invalid_value, …
├─ Unauthenticated              401     authentication_error   invalid_credentials
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

    def headers(self) -> dict[str, str]:
        """The headers that belong to this refusal."""
        return {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}


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

    def __init__(self) -> None:
        super().__init__("Valid credentials are needed: send HTTP Basic authentication.")

    def headers(self) -> dict[str, str]:
        """The challenge, without which browsers and clients do not ask."""
        return {"WWW-Authenticate": 'Basic realm="zimage", charset="UTF-8"'}


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

    def headers(self) -> dict[str, str]:
        """RFC 9110 asks for Allow beside a 405."""
        return {"Allow": self.allow}


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
