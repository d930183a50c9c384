"""Keys from an address: real servers on loopback, the good and the bad ones."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from issuer import Issuer
from zimage_worker import jwks_url
from zimage_worker.files import Source
from zimage_worker.jwks_url import AtMostEvery, FetchFailed, JwksUrl, fetch
from zimage_worker.keys import KeySet, parse_jwks

ME = Issuer(a="EdDSA", b="EdDSA")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """Answers every connection with the same bytes; None: says nothing."""

    def __init__(self) -> None:
        self.answer: bytes | None = ok(ME.jwks("a"))
        self.asked: list[bytes] = []
        self.drip_seconds = 0.0
        self.url = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answer is None:
                await asyncio.sleep(60)
            for start in range(0, len(self.answer or b""), 1 if self.drip_seconds else 1 << 20):
                writer.write((self.answer or b"")[start : start + (1 if self.drip_seconds else 1 << 20)])
                await writer.drain()
                await asyncio.sleep(self.drip_seconds)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def ok(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n") -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys?canary-query"
    yield made
    server.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def follower(site: Site, clock: Clock) -> JwksUrl:
    source = Source[KeySet](None, lambda content: parse_jwks(content, ("EdDSA",), "the issuer"), KeySet({}))
    return JwksUrl(site.url, source, clock)


def kids(follower: JwksUrl) -> list[str]:
    return list(follower.source.value.keys)


async def test_keys_come_and_go(site: Site, follower: JwksUrl) -> None:
    assert follower.source.value.problems[0].reason == "JWKSUnreachable"
    await follower.refresh()
    assert kids(follower) == ["a"]
    assert not follower.source.value.problems
    site.answer = ok(ME.jwks("a", "b"))
    await follower.refresh()
    assert kids(follower) == ["a", "b"]
    site.answer = ok(ME.jwks("b"))
    await follower.refresh()
    assert kids(follower) == ["b"]
    assert site.asked[0].startswith(b"GET /keys?canary-query HTTP/1.1\r\n")


BAD = {
    "500": b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    "302": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9\r\n",
    "nothing": b"",
    "cut off": ok(ME.jwks("b"))[:-5],
    "header bomb": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000,
    "body bomb": ok(b"x" * 1_000_000),
    "good keys, too large": ok(ME.jwks("b") + b" " * 300_000),
    "endless chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n%s\r\n" % (b"x" * 1024) * 600,
    "HTML": ok(b"<html>log in first</html>"),
    "empty set": ok(b'{"keys":[]}'),
    "damaged key": ok(ME.jwks("b").replace(b'"x":"', b'"x":"!')),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_answer_changes_nothing_at_once_and_ends_the_keys_in_time(
    site: Site, follower: JwksUrl, clock: Clock, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    await follower.refresh()
    site.answer = BAD[name]
    await follower.refresh()
    (problem,) = follower.source.value.problems
    assert problem.reason == "JWKSUnreachable"
    assert "hold for some minutes" in problem.message
    assert kids(follower) == ["a"]
    clock.now += jwks_url.STALE_SECONDS + 1
    await follower.refresh()
    assert kids(follower) == []
    assert "nobody can sign in" in follower.source.value.problems[0].message
    assert "canary" not in caplog.text + str(follower.source.value.problems)
    site.answer = ok(ME.jwks("a"))
    await follower.refresh()
    assert (kids(follower), follower.source.value.problems) == (["a"], ())


@pytest.mark.parametrize("drip_seconds", [0.0, 0.05])
async def test_a_server_that_is_silent_or_drips_costs_a_bounded_time(
    site: Site, follower: JwksUrl, monkeypatch: pytest.MonkeyPatch, drip_seconds: float
) -> None:
    monkeypatch.setattr(jwks_url, "FETCH_SECONDS", 0.5)
    site.drip_seconds = drip_seconds
    if not drip_seconds:
        site.answer = None
    await asyncio.wait_for(follower.refresh(), 20)
    assert "took longer" in follower.source.value.problems[0].message


async def test_many_who_ask_for_newer_keys_cause_one_fetch_an_interval(
    site: Site, follower: JwksUrl, clock: Clock
) -> None:
    site.drip_seconds = 0.001
    assert await asyncio.gather(*(follower.newer() for _ in range(50))) == [True] * 50
    assert len(site.asked) == 1
    assert [await follower.newer() for _ in range(50)] == [False] * 50
    assert len(site.asked) == 1
    clock.now += jwks_url.NEWER_SECONDS + 1
    assert await follower.newer()
    assert len(site.asked) == 2


async def test_one_who_leaves_does_not_end_the_fetch_for_the_others(site: Site, follower: JwksUrl) -> None:
    first, second = (asyncio.create_task(follower.newer()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    assert kids(follower) == ["a"]


async def test_following_goes_on_after_failures(site: Site, follower: JwksUrl, monkeypatch) -> None:
    monkeypatch.setattr(jwks_url, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(jwks_url, "REFRESH_SECONDS", 0.01)
    site.answer = BAD["500"]
    task = asyncio.create_task(follower.follow())
    while len(site.asked) < 3:
        await asyncio.sleep(0.01)
    site.answer = ok(ME.jwks("a"))
    async with asyncio.timeout(20):
        while kids(follower) != ["a"]:
            await asyncio.sleep(0.01)
    task.cancel()


async def test_failed_work_does_not_end_the_asking(clock: Clock) -> None:
    async def work() -> None:
        raise OSError

    newer = AtMostEvery(1, work, clock)
    with pytest.raises(OSError):
        await newer()
    assert not await newer()


def authority(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context for 127.0.0.1, and the file that a client trusts it by."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(datetime.now(UTC) - timedelta(days=1))
    made = made.not_valid_after(datetime.now(UTC) + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    chain, secret = folder / "tls.crt", folder / "tls.key"
    chain.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, secret)
    return context, chain


async def test_https_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, chain = authority(tmp_path)
    server = await asyncio.start_server(Site(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(FetchFailed, match="TLS failed"):
        await fetch(f"https://127.0.0.1:{port}/keys")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    assert await fetch(f"https://127.0.0.1:{port}/keys") == ME.jwks("a")
    with pytest.raises(FetchFailed, match="TLS failed"):
        await fetch(f"https://localhost:{port}/keys")
    server.close()


async def test_nobody_at_home() -> None:
    with pytest.raises(FetchFailed, match="connection failed"):
        await fetch("http://127.0.0.1:1/")
    with pytest.raises(FetchFailed, match="connection failed"):
        await fetch("https://no-such-host.invalid/")
