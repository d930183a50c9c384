"""A stranger's request against a real TLS server: refused, let in, redirected, or nobody there."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from zimage_operator import edge_probe
from zimage_operator.edge_probe import knock
from zimage_operator.errors import BadSettings
from zimage_operator.settings import Edge, read

HOST = "img.example.org"
LONG_AGO, LATER = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)


class Door:
    """An edge on loopback, with a certificate that nobody signed."""

    def __init__(self) -> None:
        self.status, self.asked = 401, list[web.Request]()
        self.port = 0
        self.named: list[str | None] = []

    def greet(self, _: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        self.named.append(name)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        return web.Response(status=self.status, headers={"Location": "https://nowhere.invalid/"})


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    made = Door()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context(tmp_path, made))
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def context(folder: Path, door: Door) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), LONG_AGO, LATER)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(pem))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "both.pem")
    made.sni_callback = door.greet
    return made


@pytest.mark.parametrize(
    ("status", "result"),
    [(401, "refused"), (403, "refused"), (200, "open"), (302, "unclear"), (404, "unclear"), (503, "unclear")],
)
async def test_what_an_answer_means(door: Door, status: int, result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_probe, "CONFIRM_SECONDS", 0)
    door.status = status
    report = await knock(HOST, Edge(True, "127.0.0.1", door.port))
    assert (report.result, report.detail) == (result, str(status))
    # An open door is tried again before it is called one; nothing else is.
    assert len(door.asked) == (edge_probe.CONFIRMATIONS if result == "open" else 1)


async def test_it_asks_for_the_host_and_shows_nothing_of_itself(door: Door) -> None:
    await knock(HOST, Edge(True, "127.0.0.1", door.port))
    asked = door.asked[0]
    assert asked.host == HOST
    assert door.named == [HOST]
    assert asked.path == edge_probe.PATH
    assert not {"Authorization", "Cookie"} & set(asked.headers)


async def test_nobody_there_shows_nothing() -> None:
    report = await knock(HOST, Edge(True, "127.0.0.1", 1))
    assert report.result == "unclear"


@pytest.mark.parametrize(
    ("text", "edge"),
    [
        ("off", Edge(False)),
        ("dns", Edge(True)),
        ("10.96.0.80:443", Edge(True, "10.96.0.80", 443)),
        ("traefik.dmz.svc:8443", Edge(True, "traefik.dmz.svc", 8443)),
        ("[2001:db8::1]:443", Edge(True, "2001:db8::1", 443)),
    ],
)
def test_how_the_edge_is_reached(text: str, edge: Edge) -> None:
    assert read({"ZIMAGE_OPERATOR_EDGE_PROBE": text}).edge == edge


@pytest.mark.parametrize("text", ["on", "https://edge", "edge", "edge:0", "edge:65536", "2001:db8::1:443"])
def test_a_wrong_way_to_the_edge_is_one_line(text: str) -> None:
    with pytest.raises(BadSettings) as error:
        read({"ZIMAGE_OPERATOR_EDGE_PROBE": text})
    assert len(error.value.problems) == 1
    assert "HOST:PORT" in error.value.problems[0]
