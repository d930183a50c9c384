"""A worker of mode JWT whose keys come from an address, with no trusted proxy in front."""

from __future__ import annotations

import base64
import itertools
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from issuer import AUDIENCE, ISSUER, Issuer

PASSWORD = "canary-password-7f3a"
OLD, NEW = Issuer(old="ES256"), Issuer(new="EdDSA")


class Keys(BaseHTTPRequestHandler):
    """The issuer's site; what it gives is the server's `keys`."""

    def do_GET(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.keys)  # type: ignore[attr-defined]

    def log_message(self, *_arguments: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def site() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    made.keys, made.asked = OLD.jwks(), 0  # type: ignore[attr-defined]
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, make_worker_in, site, eventually):
    folder = tmp_path_factory.mktemp("strict")
    (folder / "signing").write_text("canary-signing-key-0123456789abcdef")
    # No model: nothing here needs one, and the API answers without.
    made = make_worker_in(
        folder, folder / "no-model", ZIMAGE_AUTH_MODE="JWT", ZIMAGE_JWT_ISSUER=ISSUER, ZIMAGE_JWT_AUDIENCES=AUDIENCE,
        ZIMAGE_JWT_JWKS_URL=f"http://127.0.0.1:{site.server_port}/keys?canary-query",
        ZIMAGE_JWT_ALGORITHMS="ES256,EdDSA",
        ZIMAGE_TOKEN_SIGNING_KEY_FILE=str(folder / "signing"), ZIMAGE_TRUSTED_PROXIES="", ZIMAGE_RATE_LIMIT_BURST="60",
        ZIMAGE_RATE_LIMIT_PER_MINUTE="60", ZIMAGE_ALLOWED_HOSTS="Images.Example.org,127.0.0.1,::1",
        ZIMAGE_TOKEN_TTL_SECONDS="60", ZIMAGE_JWT_USERNAME_CLAIM="email", ZIMAGE_JWT_REQUIRED_CLAIMS="scope=images",
    )  # fmt: skip
    eventually(lambda: made.posture()["auth"]["keyIds"][:1] == ["old"])
    return made


def token(issuer: Issuer, **claims: object) -> dict[str, str]:
    kid = next(iter(issuer.private))
    found = issuer.token(kid, **{"scope": "openid images", "email": "carla@example.org", **claims})
    return {"Authorization": f"Bearer {found}"}


def test_only_tokens_open_the_api(strict) -> None:
    assert strict.api.get("/v1/models", headers=token(OLD)).status_code == 200
    answer = strict.api.get("/v1/models", auth=("alice", PASSWORD))
    assert answer.status_code == 401
    assert answer.headers.get_list("www-authenticate") == ['Bearer realm="zimage"']
    assert answer.json()["error"]["message"] == "Valid credentials are needed: send a Bearer token."
    form = {"grant_type": "password", "username": "alice", "password": PASSWORD}
    own = strict.api.post("/token", data=form).json()
    assert own["expires_in"] == 60
    headers = {"Authorization": f"Bearer {own['access_token']}"}
    assert strict.api.get("/auth/verify", headers=headers).headers["x-auth-user"] == "alice"


@pytest.mark.parametrize("claims", [{"scope": "openid"}, {"scope": None}, {"email": None}, {"email": ["x"]}])
def test_required_and_user_claims(strict, claims: dict[str, object]) -> None:
    assert strict.api.get("/auth/verify", headers=token(OLD, **claims)).status_code == 401


def test_keys_of_the_address_change_without_a_failed_request(strict, site, eventually) -> None:
    asked = site.asked
    site.keys = b'{"keys":[' + OLD.jwks()[9:-2] + b"," + NEW.jwks()[9:-2] + b"]}"
    # Nobody has fetched it yet: the unknown kid asks, once, and waits for the answer.
    assert strict.api.get("/auth/verify", headers=token(NEW)).status_code == 200
    assert strict.api.get("/auth/verify", headers=token(OLD)).status_code == 200
    assert site.asked == asked + 1
    for number in range(20):
        forged = token(Issuer(**{f"kid-{number}": "EdDSA"}))
        assert strict.api.get("/auth/verify", headers=forged).status_code == 401
    # Twenty strangers' keys in a moment; the interval and the regular refresh allow for a few fetches at most.
    assert site.asked - asked < 10
    site.keys = NEW.jwks()
    eventually(lambda: strict.api.get("/auth/verify", headers=token(Issuer(x="EdDSA"))) and gone(strict), 90)
    assert strict.api.get("/auth/verify", headers=token(NEW)).status_code == 200


def gone(strict) -> bool:
    return strict.api.get("/auth/verify", headers=token(OLD)).status_code == 401


def test_an_issuer_that_fails_is_told_and_its_last_keys_hold(strict, site, eventually) -> None:
    keys = site.keys
    try:
        site.keys = b"canary: not now"
        reason = lambda: [each["reason"] for each in strict.posture()["auth"]["problems"]]  # noqa: E731
        stranger = token(Issuer(y="EdDSA"))
        eventually(lambda: strict.api.get("/auth/verify", headers=stranger) and reason() == ["JWKSUnreachable"], 90)
        assert "canary" not in str(strict.posture())
        assert strict.api.get("/auth/verify", headers=token(NEW)).status_code == 200
    finally:
        site.keys = keys


FORGED = [
    {"X-Forwarded-For": "198.51.100.{n}"}, {"X-Forwarded-For": "{n}.0.0.1, 10.0.0.1"},
    {"X-Forwarded-For": "::ffff:10.0.0.{n}"}, {"X-Forwarded-For": "[2001:db8::{n}]:80"},
    {"X-Forwarded-For": "unknown, {n}"}, {"X-Forwarded-For": "\\xff{n}", "Via": "1.1 x"},
    {"Forwarded": "for=198.51.100.{n};proto=https"}, {"Forwarded": 'for="[2001:db8::{n}]"'},
    {"X-Real-IP": "198.51.100.{n}"}, {"X-Client-IP": "10.0.0.{n}"}, {"True-Client-IP": "10.1.0.{n}"},
    {"CF-Connecting-IP": "10.2.0.{n}"},
]  # fmt: skip


def test_an_untrusted_peer_is_its_own_address_whatever_it_writes(strict) -> None:
    """Were any of these believed, every guess would come from somebody else."""
    found = []
    for number in range(40):
        headers = {name: value.format(n=number) for name, value in FORGED[number % len(FORGED)].items()}
        form = {"grant_type": "password", "username": "ivan", "password": f"canary-guess-{number}"}
        found.append(strict.api.post("/token", data=form, headers=headers).status_code)
    assert found[0] == 400
    assert found[-1] == 429
    lines = [line for line in strict.stdout.read_text().splitlines() if "/token" in line]
    assert {line.split()[0] for line in lines} == {"127.0.0.1"}


NAME = b"images.example.org"
HOSTS = {
    b"Host: %s" % NAME: 200, b"Host: IMAGES.Example.ORG": 200, b"Host: %s." % NAME: 200, b"Host: %s:443" % NAME: 200,
    b"Host: %s.:8443" % NAME: 200, b"Host:   %s  " % NAME: 200, b"Host: %s:" % NAME: 200, b"Host: [::1]": 200,
    b"Host: [::1]:7860": 200, b"Host: 127.0.0.1:1": 200,
    b"Host: %s.." % NAME: 421, b"Host: %s:443:443" % NAME: 421, b"Host: %s:x" % NAME: 421,
    b"Host: %s:443@evil.org" % NAME: 421, b"Host: [::1]evil.org": 421, b"Host: [::1": 421, b"Host: ::1": 421,
    b"Host: [::2]": 421, b"Host: evil.org": 421, b"Host: .%s" % NAME: 421, b"Host: %s.evil.org" % NAME: 421,
    b"Host: evil.org/%s" % NAME: 421, b"Host: a@%s" % NAME: 421, b"Host: %s, evil.org" % NAME: 421,
    b"Host: %s evil.org" % NAME: 421, b"Host: %s\r\n evil.org" % NAME: 421, b"Host:": 421,
    b"Host: \xc3\xbcmages.example.org": 421,
    b"Host: %s\t\x0b" % NAME: 400, b"X-Forwarded-Host: %s" % NAME: 400, b"X-No-Host: x": 400, b"Host : %s" % NAME: 400,
    b"Host: %s\r\nHost: evil.org" % NAME: 400, b"Host: %s\r\nhost: %s" % (NAME, NAME): 400,
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_hosts(strict, host: bytes) -> None:
    for path in (b"/healthz", b"/auth/verify"):
        with socket.create_connection(("127.0.0.1", strict.port), timeout=30) as connection:
            connection.sendall(b"GET " + path + b" HTTP/1.1\r\n" + host + b"\r\nConnection: close\r\n\r\n")
            answer = connection.recv(65536)
        allowed = 200 if path == b"/healthz" else 401
        assert int(answer.split(b" ")[1]) == (allowed if HOSTS[host] == 200 else HOSTS[host])


def test_http_1_0_without_a_host(strict) -> None:
    with socket.create_connection(("127.0.0.1", strict.port), timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b" 421 " in connection.recv(65536).splitlines()[0]


def test_an_absolute_target_is_no_way_around_the_host(strict) -> None:
    """The edge refuses the form as such (docs/decisions/0140)."""
    with socket.create_connection(("127.0.0.1", strict.port), timeout=30) as connection:
        connection.sendall(b"GET http://images.example.org/auth/verify HTTP/1.1\r\nHost: evil.org\r\n\r\n")
        assert b" 400 " in connection.recv(65536).splitlines()[0]


def test_the_rate_of_verify_is_ten_times_the_api_s_and_for_each_user(strict) -> None:
    judy = token(NEW, email="judy")
    codes = (strict.api.get("/auth/verify", headers=judy).status_code for _ in range(5000))
    allowed = list(itertools.takewhile(lambda code: code != 403, codes))
    assert allowed == [200] * len(allowed)
    assert 600 <= len(allowed) < 5000
    assert strict.api.get("/auth/verify", headers=token(NEW)).status_code == 200


def test_nothing_leaks(strict) -> None:
    """Last in the file."""
    logs = strict.logs()
    assert "canary" not in logs
    assert "eyJ" not in logs
    assert base64.b64encode(f"alice:{PASSWORD}".encode()).decode() not in logs
    assert not re.search(r'" 500 \d', logs)
    assert "Traceback" not in logs
