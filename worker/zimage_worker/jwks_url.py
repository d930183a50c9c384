"""An issuer's key set from its address: fetched in the background, never on a client's word alone."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import SplitResult, urlsplit

import h11

from .files import Source
from .keys import KeySet
from .problems import Problem

log = logging.getLogger("zimage.jwks")

# A removed key must fail within 90 s: this, and the longest fetch.
REFRESH_SECONDS = 60.0
# From the look-up of the name to the last byte.
FETCH_SECONDS = 10.0
# Where the issuer does not answer its last keys hold for so long: time for it to restart, and no more,
# because a key that was taken back in the meantime is still accepted.
STALE_SECONDS = 300.0
# At the start nobody can sign in before the first answer.
RETRY_SECONDS = 5.0
# Forty RSA keys with their certificates.
BODY_MAX_BYTES = 256 * 1024
# Strangers may make us ask for an unknown key so often, all of them together.
NEWER_SECONDS = 10.0


class FetchFailed(Exception):
    """The issuer did not give its keys; the text may be shown."""


class AtMostEvery:
    """Work that many ask for: done once for all who ask meanwhile, and not again before `seconds` are over."""

    def __init__(self, seconds: float, work: Callable[[], Awaitable[None]], clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self.work = work
        self.clock = clock
        self.running: asyncio.Future[None] | None = None
        self.not_before = 0.0

    async def __call__(self) -> bool:
        """Whether it was done for us; False where it was done a moment ago."""
        if self.running is None:
            if self.clock() < self.not_before:
                return False
            self.running = asyncio.ensure_future(self.once())
        await asyncio.shield(self.running)
        return True

    async def once(self) -> None:
        """The interval counts from the end."""
        try:
            await self.work()
        finally:
            self.running, self.not_before = None, self.clock() + self.seconds


class JwksUrl:
    """Keeps a source filled with what the address gives."""

    def __init__(self, url: str, source: Source[KeySet], clock: Callable[[], float]) -> None:
        self.url = url
        # A query may hold a secret.
        self.shown = url.partition("?")[0]
        self.source = source
        self.clock = clock
        self.good_until = 0.0
        self.newer = AtMostEvery(NEWER_SECONDS, self.refresh, clock)
        source.value = KeySet({}, (Problem("JWKSUnreachable", f"no keys from {self.shown} yet"),))

    async def follow(self) -> None:
        """For ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_SECONDS if self.source.value.keys else RETRY_SECONDS)

    async def refresh(self) -> None:
        """Fetch once. What is no key set counts like no answer."""
        try:
            content = await fetch(self.url)
        except FetchFailed as error:
            self.fail(str(error))
            return
        fresh = self.source.parse(content)
        if not fresh.keys:
            self.fail(" ".join(problem.message for problem in fresh.problems))
            return
        if self.source.content != content or self.source.value.problems:
            log.info("keys fetched from %s: %d", self.shown, len(fresh.keys))
        self.source.take(content)
        self.good_until = self.clock() + STALE_SECONDS

    def fail(self, why: str) -> None:
        """Keep what there is for a while, then nothing; say so either way, once for each reason."""
        old = self.source.value
        held = bool(old.keys) and self.clock() < self.good_until
        until = "its last keys hold for some minutes" if held else "nobody can sign in with its tokens"
        problem = Problem("JWKSUnreachable", f"no keys from {self.shown}: {why}; {until}")
        if old.problems != (problem,):
            log.error("credentials: %s", problem.message)
        self.source.value = replace(old if held else KeySet({}), problems=(problem,))


async def fetch(url: str) -> bytes:
    """GET an address: no redirects, no proxies, a bounded time and size.

    Raises:
        FetchFailed: anything but a 200 with a body that fits.
    """
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            return await get(urlsplit(url))
    except TimeoutError:
        raise FetchFailed(f"it took longer than {FETCH_SECONDS:.0f} s") from None
    except ssl.SSLError as error:
        raise FetchFailed(f"TLS failed ({error.reason})") from error
    except (OSError, h11.RemoteProtocolError, EOFError) as error:
        raise FetchFailed(f"the connection failed ({type(error).__name__})") from error


async def get(address: SplitResult) -> bytes:
    """One request on a connection of its own."""
    context = ssl.create_default_context() if address.scheme == "https" else None
    port = address.port or (443 if context else 80)
    reader, writer = await asyncio.open_connection(address.hostname, port, ssl=context)
    try:
        talk = h11.Connection(h11.CLIENT)
        path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        headers = [("Host", address.netloc), ("Accept", "application/json"), ("Connection", "close")]
        writer.write(talk.send(h11.Request(method="GET", target=path, headers=headers)) or b"")
        writer.write(talk.send(h11.EndOfMessage()) or b"")
        return await body(talk, reader)
    finally:
        writer.close()


async def body(talk: h11.Connection, reader: asyncio.StreamReader) -> bytes:
    """The body of a 200, counted while it comes."""
    content = bytearray()
    while True:
        event = talk.next_event()
        if event is h11.NEED_DATA:
            talk.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Response) and event.status_code != 200:
            raise FetchFailed(f"it answered {event.status_code}; redirects are not followed")
        elif isinstance(event, h11.Data):
            content += event.data
            if len(content) > BODY_MAX_BYTES:
                raise FetchFailed(f"it answered with more than {BODY_MAX_BYTES} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return bytes(content)
        elif isinstance(event, h11.ConnectionClosed):
            raise EOFError
