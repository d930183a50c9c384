"""What surrounds every request: id, access log, security headers; on the API host check and a bounded body."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from .addresses import client_address, host_allowed
from .errors import BodyTooLarge, WorkerError, WrongHost
from .logs import AccessLog, request_id
from .metrics import Metrics
from .settings import Settings
from .visible import known_method, known_path, origin

log = logging.getLogger("zimage.http")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# A prompt of 2,000 characters with every extension is below 20 kB.
BODY_MAX_BYTES = 64 * 1024
# The one path with pictures in its body: up to ZIMAGE_MAX_BODY_BYTES.
UPLOAD_PATH = "/v1/images/edits"
# All uploads together, each known by name before its first byte is kept: what they may cost of the pod's memory.
UPLOADS_MAX_BYTES = 128 * 1024 * 1024
# A year: the least that browsers' preload lists ask for.
HSTS = (b"strict-transport-security", b"max-age=31536000")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def header(scope: MutableMapping[str, Any], name: bytes) -> list[str]:
    """All values of one header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


class ClientLeft(Exception):
    """Nobody is there to be answered."""


async def refuse(error: WorkerError, send: Send) -> None:
    """An error's answer without any framework."""
    body = json.dumps(error.body()).encode()
    headers = [(key.lower().encode(), value.encode()) for key, value in error.headers()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Envelope:
    """The outermost layer of either port: whatever happens inside, one answer and one line in the log."""

    def __init__(self, app: App, words: frozenset[str], access_log: AccessLog) -> None:
        self.app = app
        # The segments of our paths: only they are shown in the log.
        self.words = words
        self.access_log = access_log
        # Requests between their first byte and their last: what a drain waits for.
        self.in_flight = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request from end to end."""
        if scope["type"] != "http":
            return
        began = time.monotonic()
        given = header(scope, b"x-request-id")
        name = given[0] if len(given) == 1 and REQUEST_ID.fullmatch(given[0]) else secrets.token_hex(8)
        request_id.set(name)
        scope["state"] |= {"address": self.address(scope), "user": ""}
        sent = {"status": 0, "bytes": 0}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent["status"] = message["status"]
                kept = [(key, value) for key, value in message.get("headers", []) if key != b"server"]
                # The page alone has a policy of its own; everything else gets the strictest.
                own = {key for key, _ in kept}
                added = [each for each in (*SECURITY_HEADERS, *self.promises(scope)) if each[0] not in own]
                message["headers"] = [*kept, *added, (b"x-request-id", name.encode())]
            elif scope["method"] != "HEAD":
                sent["bytes"] += len(message.get("body", b""))
            await send(message)

        self.in_flight += 1
        try:
            await self.guarded(scope, receive, sending)
        except ClientLeft:
            pass
        except Exception:
            log.exception("a request failed unexpectedly")
            if not sent["status"]:
                await refuse(WorkerError("The worker failed; see its log."), sending)
        finally:
            self.in_flight -= 1
            # 499 is nginx's number for a client that left; the protocol tells when it was sent away.
            status = sent["status"] or scope["state"].get("refused") or 499
            if self.worth_a_line(status):
                self.write(scope, status, sent["bytes"], time.monotonic() - began)

    def address(self, scope: MutableMapping[str, Any]) -> str:
        """The peer."""
        return scope["client"][0] if scope.get("client") else ""

    def promises(self, _scope: MutableMapping[str, Any]) -> Iterable[tuple[bytes, bytes]]:
        """Headers that depend on the way to here."""
        return ()

    def worth_a_line(self, _status: int) -> bool:
        """Every request is."""
        return True

    async def guarded(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """The app."""
        await self.app(scope, receive, send)

    def write(self, scope: MutableMapping[str, Any], status: int, sent_bytes: int, seconds: float) -> None:
        """The access log's line."""
        path = known_path(scope["raw_path"].decode("latin-1"), self.words)
        self.access_log.write(
            scope["state"]["address"],
            scope["state"]["user"],
            f"{known_method(scope['method'])} {path} HTTP/{scope['http_version']}",
            status,
            sent_bytes,
            origin("".join(header(scope, b"referer")[:1])),
            "".join(header(scope, b"user-agent")[:1]),
            seconds,
        )


class Quiet(Envelope):
    """For the management port: the kubelet's probes are no news, somebody who looks for holes is."""

    def worth_a_line(self, status: int) -> bool:
        """503 is how a probe is told `not yet`."""
        return status >= 400 and status != 503


class Surroundings(Envelope):
    """For the API port. It decides nothing but host and body size."""

    def __init__(
        self, app: App, words: frozenset[str], settings: Settings, access_log: AccessLog, metrics: Metrics
    ) -> None:
        super().__init__(app, words, access_log)
        self.settings = settings
        self.metrics = metrics

    def address(self, scope: MutableMapping[str, Any]) -> str:
        """The client behind the proxies that we trust."""
        return client_address(super().address(scope), header(scope, b"x-forwarded-for"), self.settings.trusted_proxies)

    def promises(self, scope: MutableMapping[str, Any]) -> Iterable[tuple[bytes, bytes]]:
        """Through TLS, as the edge tells: nothing but TLS from now on. Who forges it binds nobody but himself."""
        return (HSTS,) if header(scope, b"x-forwarded-proto") == ["https"] else ()

    async def guarded(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Host, then body, then the app."""
        try:
            if not host_allowed(header(scope, b"host"), self.settings.allowed_hosts):
                raise WrongHost("This service does not answer to that host name.")
            if scope["path"] == UPLOAD_PATH:
                upload = Upload(scope, receive, send, self.settings.max_body_bytes)
                await self.app(scope, upload.receive, upload.send)
                return
            replay = await bounded(scope, receive)
        except WorkerError as error:
            self.metrics.http_refused.labels("api", error.code).inc()
            await refuse(error, send)
            return
        await self.app(scope, replay, send)


def ensure_short(scope: MutableMapping[str, Any], most_bytes: int) -> None:
    """By what the client says of its length.

    Raises:
        BodyTooLarge: it says too much.
    """
    lengths = header(scope, b"content-length")
    # len(): int() of 5,000 digits raises.
    if lengths and (len(lengths[0]) > 12 or int(lengths[0]) > most_bytes):
        raise BodyTooLarge(f"The body is larger than {most_bytes} bytes.")


class Upload:
    """A body that the app reads itself, once it knows the caller: nothing of a stranger's is kept."""

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, most_bytes: int) -> None:
        ensure_short(scope, most_bytes)
        self.source = receive
        self.sink = send
        self.most_bytes = self.left_bytes = most_bytes
        self.complete = False
        # Whoever asks first has sent nothing, and is told before sending anything.
        self.asks_first = bool(header(scope, b"expect"))

    async def receive(self) -> Message:
        """The next piece.

        Raises:
            BodyTooLarge: where there was no length.
        """
        message = await self.source()
        if message["type"] != "http.request":
            self.complete = True
            return message
        self.left_bytes -= len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self.left_bytes < 0:
            self.complete = True
            raise BodyTooLarge(f"The body is larger than {self.most_bytes} bytes.")
        return message

    async def send(self, message: Message) -> None:
        """An answer in the middle of the body waits until the rest has been thrown away.

        A closed connection with unread bytes is reset, and the client would never see why.
        """
        if message["type"] == "http.response.start" and not self.asks_first:
            try:
                while not self.complete:
                    await self.receive()
            except BodyTooLarge:
                pass
        await self.sink(message)


async def bounded(scope: MutableMapping[str, Any], receive: Receive) -> Receive:
    """Read the whole body, counting; then a `receive` that gives it once and waits for the end.

    Before authentication, so that nobody makes the worker hold more than this.

    Raises:
        BodyTooLarge: by its length, or by its bytes where there is no length.
    """
    ensure_short(scope, BODY_MAX_BYTES)
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_MAX_BYTES:
            raise BodyTooLarge(f"The body is larger than {BODY_MAX_BYTES} bytes.")
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return replay
