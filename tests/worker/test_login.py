"""Signing in at the real process: every way in, every known attack, and credentials that change."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bcrypt
import openai
import pytest

from issuer import Issuer, forgeries
from zimage_operator.observed import read_posture

PASSWORD = "canary-password-7f3a"
BOTH = ['Basic realm="zimage", charset="UTF-8"', 'Bearer realm="zimage"']
INVALID = ['Bearer realm="zimage", error="invalid_token"']
NAMES = list(forgeries(Issuer()))


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def entry(user: str, password: str, cost: int = 4) -> str:
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()}\n"


def refused(answer, challenges: list[str]) -> None:
    """The one refusal, whatever the reason."""
    assert answer.status_code == 401, answer.text
    assert answer.headers.get_list("www-authenticate") == challenges
    assert answer.json() == {
        "error": {
            "message": "Valid credentials are needed: send HTTP Basic authentication or a Bearer token.",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_credentials",
        }
    }


@pytest.fixture(scope="module")
def attacks(gated) -> dict[str, str]:
    return forgeries(gated.issuer)


def test_every_honest_way_in(gated) -> None:
    assert gated.get(authorization=basic(f"alice:{PASSWORD}")).status_code == 200
    for kid in gated.issuer.private:
        assert gated.bearer(gated.issuer.token(kid)).status_code == 200
    assert gated.get(authorization=f"bEaReR   {gated.issuer.token()}").status_code == 200
    assert gated.bearer(gated.issuer.token(aud=["x", "other"])).status_code == 200
    assert gated.bearer(gated.issuer.token(), "/nothing").status_code == 404


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_token_is_refused_like_any_other(gated, attacks, name: str) -> None:
    refused(gated.bearer(attacks[name]), INVALID)
    refused(gated.bearer(attacks[name], "/auth/verify"), INVALID)


@pytest.mark.parametrize(
    "authorization",
    [
        "", "Basic", "Basic !!", "Basic " + "A" * 9, "Digest x", "Basic =", basic("alice"), basic(":" + PASSWORD),
        basic(f"alice:{PASSWORD}\0"), basic(f"\0alice:{PASSWORD}"), basic(b"alice:\xff\xfe"), basic(b"\xff:x"),
        basic("alice:" + "x" * 10_000), basic("x" * 300 + ":x"), basic("alice:"), basic(f"ALICE:{PASSWORD}"),
        basic(f"alice:{PASSWORD} "), basic(f"alice\u0301:{PASSWORD}"), basic(f"alice:{PASSWORD}") + "=",
        basic(f"alice:{PASSWORD}") + ", " + basic(f"alice:{PASSWORD}"), "Token abc", "Bearer,Basic",
    ],
)  # fmt: skip
def test_a_bad_password_header_is_refused_like_any_other(gated, authorization: str) -> None:
    refused(gated.get(authorization=authorization), BOTH)


def test_nothing_and_two_are_refused_alike(gated) -> None:
    refused(gated.get(), BOTH)
    two = [("Authorization", basic(f"alice:{PASSWORD}"))] * 2
    refused(gated.worker.api.get("/v1/models", headers=two), BOTH)
    refused(gated.get(f"/v1/models?access_token={gated.issuer.token()}"), BOTH)
    assert gated.get(authorization=basic(f"alice:{PASSWORD}"), headers={"Host": "evil.example.org"}).status_code == 421


def test_a_token_of_a_megabyte_costs_nothing(gated) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "
    answer = raw(gated.worker.port, head + b"A" * 1_000_000 + b"\r\n\r\n")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    refused(gated.bearer("A" * 12_000), INVALID)
    assert gated.bearer(gated.issuer.token()).status_code == 200


def raw(port: int, content: bytes) -> bytes:
    """What comes back for these bytes; nothing where the connection is cut."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        answer = b""
        try:
            connection.sendall(content)
            while b"\r\n\r\n" not in answer and (more := connection.recv(65536)):
                answer += more
        except OSError:
            pass
        return answer


def test_openai_s_client_with_either_credential(gated) -> None:
    url = f"http://127.0.0.1:{gated.worker.port}/v1"
    with_token = openai.OpenAI(base_url=url, api_key=gated.issuer.token(), max_retries=0)
    header = {"Authorization": basic(f"alice:{PASSWORD}")}
    with_password = openai.OpenAI(base_url=url, api_key="unused", default_headers=header, max_retries=0)
    with_own = openai.OpenAI(base_url=url, api_key=gated.token().json()["access_token"], max_retries=0)
    for client in (with_token, with_password, with_own):
        assert [model.id for model in client.models.list().data] == ["z-image"]
        made = client.images.generate(prompt="a fox", size="64x64", extra_body={"steps": 1})  # type: ignore[call-overload]
        assert base64.b64decode(made.data[0].b64_json).startswith(b"\x89PNG")
    with pytest.raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=url, api_key="sk-canary-wrong", max_retries=0).models.list()
    assert caught.value.code == "invalid_credentials"


def test_thirty_at_once_with_the_right_password_all_get_in(gated, eventually) -> None:
    """The memory is cold and a hash takes long: one is enough for all of them."""
    before = gated.worker.htpasswd.read_text()
    try:
        gated.worker.htpasswd.write_text(before + entry("dora", "canary-dora", 10))
        eventually(lambda: gated.worker.posture()["auth"]["users"] == 2)
        address = {"X-Forwarded-For": "198.51.100.77"}
        ask = lambda _: gated.get(authorization=basic("dora:canary-dora"), headers=address).status_code  # noqa: E731
        with ThreadPoolExecutor(30) as pool:
            assert list(pool.map(ask, range(60))) == [200] * 60
        guess = lambda n: gated.get(authorization=basic(f"dora:canary-{n}"), headers=address).status_code  # noqa: E731
        with ThreadPoolExecutor(30) as pool:
            found = list(pool.map(guess, range(60)))
        assert 0 < found.count(401) <= 22
        assert found.count(401) + found.count(429) == 60
    finally:
        gated.worker.htpasswd.write_text(before)
    eventually(lambda: gated.worker.posture()["auth"]["users"] == 1)


def test_an_unknown_user_takes_as_long_as_a_known_one(gated, eventually) -> None:
    """Welch's t over 300 tries, interleaved; without a hash for strangers it was 8 on a very busy machine."""
    before, cost = gated.worker.htpasswd.read_text(), 7
    try:
        gated.worker.htpasswd.write_text("".join(entry(name, "canary-x", cost) for name in ("erin", "frank")))
        eventually(lambda: gated.worker.posture()["auth"]["users"] == 2)
        times: dict[str, list[float]] = {"erin": [], "nobody": []}
        for number in range(150):
            for name, taken in times.items():
                began = time.perf_counter()
                assert gated.get(authorization=basic(f"{name}:guess-{number}")).status_code == 401
                taken.append(time.perf_counter() - began)
    finally:
        gated.worker.htpasswd.write_text(before)
    eventually(lambda: gated.worker.posture()["auth"]["users"] == 1)
    # The slowest fifth is the machine's noise, not the hash.
    known, unknown = (sorted(taken)[:120] for taken in times.values())
    spread = (statistics.variance(known) + statistics.variance(unknown)) / 120
    t = (statistics.mean(known) - statistics.mean(unknown)) / spread**0.5
    ratio = statistics.median(unknown) / statistics.median(known)
    assert abs(t) < 4 or 0.8 < ratio < 1.25, (t, ratio)


# --- POST /token ---------------------------------------------------------------------------------


def test_a_password_becomes_a_token(gated) -> None:
    answer = gated.token(client_id="page", client_secret="")
    assert answer.status_code == 200, answer.text
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    body = answer.json()
    assert (body["token_type"], body["expires_in"]) == ("Bearer", 900)
    assert set(body) == {"access_token", "token_type", "expires_in"}
    verified = gated.bearer(body["access_token"], "/auth/verify")
    assert (verified.status_code, verified.headers["x-auth-user"]) == (200, "alice")
    refused(gated.bearer(body["access_token"][:-2] + "xx"), INVALID)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"data": {}}, "invalid_request"),
        ({"data": {"grant_type": "", "username": "alice", "password": PASSWORD}}, "invalid_request"),
        ({"data": {"grant_type": "client_credentials"}}, "unsupported_grant_type"),
        ({"data": {"grant_type": "refresh_token", "refresh_token": "canary"}}, "unsupported_grant_type"),
        ({"data": {"grant_type": "password", "username": "alice"}}, "invalid_request"),
        ({"data": {"grant_type": "password", "username": "", "password": "x"}}, "invalid_request"),
        ({"data": {"grant_type": "password", "username": "x" * 300, "password": "x"}}, "invalid_request"),
        ({"data": {"grant_type": "password", "username": "alice", "password": "x" * 10_000}}, "invalid_request"),
        ({"data": {"grant_type": "password", "username": "alice", "password": "canary-no"}}, "invalid_grant"),
        ({"data": {"grant_type": "password", "username": "nobody", "password": "canary-no"}}, "invalid_grant"),
        ({"data": {"grant_type": "password", "username": "alice", "password": PASSWORD + "\0"}}, "invalid_grant"),
        (
            {"data": {"grant_type": "password", "username": "alice", "password": PASSWORD, "scope": "admin"}},
            "invalid_scope",
        ),
        ({"data": {"grant_type": ["password", "password"], "username": "a", "password": "b"}}, "invalid_request"),
        ({"json": {"grant_type": "password", "username": "alice", "password": PASSWORD}}, "invalid_request"),
        ({"files": {"grant_type": (None, "password")}}, "invalid_request"),
        ({"content": b"\xff\xfe"}, "invalid_request"),
        ({"content": b"grant_type=password&username=%ff&password=x"}, "invalid_request"),
        ({"content": b"a=1&" * 1000}, "invalid_request"),
        ({"content": b"%" * 1000}, "invalid_request"),
    ],
)
def test_a_refused_token_is_told_as_oauth2_tells_it(gated, options: dict[str, Any], code: str) -> None:
    headers = {"X-Forwarded-For": next(gated.addresses)}
    if "content" in options:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    answer = gated.worker.api.post("/token", headers=headers, **options)
    assert (answer.status_code, answer.json()["error"]) == (400, code)
    assert set(answer.json()) == {"error", "error_description"}
    assert "canary" not in answer.text
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert "www-authenticate" not in answer.headers


def test_guesses_at_token_and_at_the_api_are_one_account(gated) -> None:
    headers = {"X-Forwarded-For": "203.0.113.40"}
    form = {"grant_type": "password", "username": "grace"}
    for number in range(10):
        gated.worker.api.post("/token", headers=headers, data={**form, "password": f"canary-{number}"})
        gated.get(authorization=basic(f"grace:canary-api-{number}"), headers=headers)
    answer = gated.worker.api.post("/token", headers=headers, data={**form, "password": "canary"})
    assert (answer.status_code, answer.json()["error"]) == (429, "temporarily_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert gated.get(authorization=basic("grace:canary"), headers=headers).status_code == 429
    verified = gated.get("/auth/verify", basic("grace:canary"), headers=headers)
    assert (verified.status_code, verified.json()["error"]["code"]) == (403, "rate_limit_exceeded")
    assert int(verified.headers["retry-after"]) >= 1


def test_a_token_ends_with_the_user_and_with_the_password(gated, eventually) -> None:
    before = gated.worker.htpasswd.read_text()
    other = entry("heidi", "canary-1")
    try:
        gated.worker.htpasswd.write_text(before + other)
        eventually(lambda: gated.worker.posture()["auth"]["users"] == 2)
        token = gated.token("heidi", "canary-1").json()["access_token"]
        assert gated.get(authorization=basic("heidi:canary-1")).status_code == 200
        assert gated.bearer(token).status_code == 200
        gated.worker.htpasswd.write_text(before + entry("heidi", "canary-2"))
        eventually(lambda: gated.bearer(token).status_code == 401)
        # Remembered as right until a moment ago.
        assert is_401(gated, basic("heidi:canary-1"))
        assert gated.get(authorization=basic("heidi:canary-2")).status_code == 200
        gated.worker.htpasswd.write_text(before + other)
        eventually(lambda: gated.bearer(token).status_code == 200)
        gated.worker.htpasswd.write_text(before)
        eventually(lambda: gated.bearer(token).status_code == 401)
        assert gated.token("heidi", "canary-1").json()["error"] == "invalid_grant"
    finally:
        gated.worker.htpasswd.write_text(before)


# --- GET /auth/verify ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_proxy_may_ask_with_any_method(gated, method: str) -> None:
    answer = gated.get("/auth/verify", basic(f"alice:{PASSWORD}"), method=method)
    assert (answer.status_code, answer.content, answer.headers["x-auth-user"]) == (200, b"", "alice")
    assert gated.get("/auth/verify", method=method).status_code == 401


def test_asking_is_no_way_around_host_or_rate(gated) -> None:
    good = basic(f"alice:{PASSWORD}")
    assert gated.get("/auth/verify", good, headers={"Host": "evil.example.org"}).status_code == 421
    assert gated.get("/auth/verify", good, headers={"X-Forwarded-Host": "x", "X-Auth-User": "root"}).status_code == 200


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("carla@example.org", "carla@example.org"),
        ("кира", "%D0%BA%D0%B8%D1%80%D0%B0"),
        ("100% ok", "100%25%20ok"),
        ("ünal", "%C3%BCnal"),
        ("a,b;c=d", "a,b;c=d"),
    ],
)
def test_any_name_fits_into_the_header(gated, name: str, header: str) -> None:
    assert gated.bearer(gated.issuer.token(sub=name), "/auth/verify").headers["x-auth-user"] == header


# --- Changing credentials ------------------------------------------------------------------------


class Busy:
    """Valid users who ask all the time, and every answer that was no 200."""

    def __init__(self, gated, **authorizations: str) -> None:
        self.gated, self.authorizations = gated, authorizations
        self.failed: list[tuple[str, int]] = []
        self.asked = 0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.end.wait(0.01):
            for name, authorization in self.authorizations.items():
                code = self.gated.get(authorization=authorization).status_code
                self.asked += 1
                if code != 200:
                    self.failed.append((name, code))

    def __enter__(self) -> Busy:
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        until = time.monotonic() + 30
        while self.asked < 20 and time.monotonic() < until:
            time.sleep(0.01)
        self.end.set()
        self.thread.join()
        assert self.asked >= 20
        assert not self.failed


def test_passwords_change_without_a_failed_request(gated, eventually) -> None:
    before = gated.worker.htpasswd.read_text()
    own = gated.token().json()["access_token"]
    with Busy(gated, password=basic(f"alice:{PASSWORD}"), own=f"Bearer {own}", issuer=f"Bearer {gated.issuer.token()}"):
        for number in range(3):
            others = "".join(entry(f"user-{n}-{number}", "canary") for n in range(20))
            gated.worker.htpasswd.write_text(before + others)
            wanted = hashlib.sha256((before + others).encode()).hexdigest()
            eventually(lambda wanted=wanted: gated.worker.posture()["auth"]["filesSha256"]["basic"] == wanted)
            assert gated.get(authorization=basic(f"user-3-{number}:canary")).status_code == 200
            eventually(lambda number=number: number == 0 or is_401(gated, basic(f"user-3-{number - 1}:canary")))
        gated.worker.htpasswd.write_text(before)
        eventually(lambda: is_401(gated, basic("user-3-2:canary")))


def is_401(gated, authorization: str) -> bool:
    return gated.get(authorization=authorization).status_code == 401


def test_a_key_is_changed_without_a_failed_request(gated, eventually) -> None:
    old, fresh = gated.issuer, Issuer(new="ES256")
    both = b'{"keys":[' + old.jwks()[9:-2] + b"," + fresh.jwks()[9:-2] + b"]}"
    try:
        with Busy(gated, password=basic(f"alice:{PASSWORD}"), old=f"Bearer {old.token('ec')}"):
            gated.jwks.write_bytes(both)
            # No wait: a token may name a key that nobody has looked up yet.
            with Busy(gated, new=f"Bearer {fresh.token('new')}"):
                eventually(lambda: gated.worker.posture()["auth"]["keyIds"][:4] == ["rsa", "ec", "ed", "new"])
                time.sleep(0.5)
        gated.jwks.write_bytes(fresh.jwks())
        eventually(lambda: is_401(gated, f"Bearer {old.token('ec')}"))
        assert gated.bearer(fresh.token("new")).status_code == 200
        assert gated.worker.posture()["auth"]["filesSha256"]["jwks"] == hashlib.sha256(fresh.jwks()).hexdigest()
    finally:
        gated.jwks.write_bytes(old.jwks())
    eventually(lambda: gated.bearer(old.token()).status_code == 200)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "SecretMissing"), (b"{canary", "SecretMalformed"), (b'{"keys":[]}', "SecretMalformed")],
)
def test_a_broken_key_set_fails_closed_and_alone(gated, eventually, content: bytes | None, reason: str) -> None:
    token, good = gated.issuer.token(), basic(f"alice:{PASSWORD}")
    try:
        if content is None:
            gated.jwks.unlink()
        else:
            gated.jwks.write_bytes(content)
        eventually(lambda: [each["reason"] for each in gated.worker.posture()["auth"]["problems"]] == [reason])
        refused(gated.bearer(token), INVALID)
        assert gated.get(authorization=good).status_code == 200
        assert gated.worker.management.get("/health/ready").status_code == 200
        assert "canary" not in str(gated.worker.posture())
        assert [kid for kid in gated.worker.posture()["auth"]["keyIds"] if not kid.startswith("zimage-")] == []
    finally:
        gated.jwks.write_bytes(gated.issuer.jwks())
    eventually(lambda: gated.bearer(token).status_code == 200)
    assert gated.worker.posture()["auth"]["problems"] == []


def test_the_signing_key_is_changed_and_can_be_missing(gated, eventually) -> None:
    before = gated.signing.read_text()
    (kid,) = (kid for kid in gated.worker.posture()["auth"]["keyIds"] if kid.startswith("zimage-"))
    token = gated.token().json()["access_token"]
    fresh = "canary-other-key-0123456789-abcdefgh\n"
    try:
        with Busy(gated, old=f"Bearer {token}"):
            gated.signing.write_text(fresh + before)
            eventually(lambda: gated.worker.posture()["auth"]["keyIds"][-1] == kid != newest(gated))
        gated.signing.write_text(fresh)
        eventually(lambda: is_401(gated, f"Bearer {token}"))
        gated.signing.unlink()
        eventually(lambda: gated.token().status_code == 503)
        assert gated.token().json()["error"] == "temporarily_unavailable"
        assert gated.worker.posture()["auth"]["problems"][0]["reason"] == "SecretMissing"
        assert gated.get(authorization=basic(f"alice:{PASSWORD}")).status_code == 200
    finally:
        gated.signing.write_text(before)
    eventually(lambda: gated.bearer(token).status_code == 200)


def newest(gated) -> str:
    return str(gated.worker.posture()["auth"]["keyIds"][-2])


def test_posture_names_what_was_loaded(gated) -> None:
    auth = gated.worker.posture()["auth"]
    assert (auth["mode"], auth["users"], auth["problems"]) == ("Any", 1, [])
    assert auth["keyIds"][:3] == ["rsa", "ec", "ed"]
    assert set(auth["filesSha256"]) == {"basic", "jwks"}
    assert "canary" not in str(auth)
    # What the operator makes of it: all that it knows of a Secret, which it never reads.
    read = read_posture(gated.worker.posture())
    assert (read.auth_mode, read.users, list(read.key_ids)) == ("Any", 1, auth["keyIds"])
    assert read.basic_sha256 == hashlib.sha256(gated.worker.htpasswd.read_bytes()).hexdigest()


REASONS = {
    "missing", "scheme", "malformed", "no_users", "wrong", "token_malformed", "token_header", "token_key",
    "token_signature", "token_issuer", "token_audience", "token_expired", "token_not_yet", "token_claims", "token_user",
}  # fmt: skip


def test_refusals_are_counted_by_reason_and_nothing_leaks(gated, attacks) -> None:
    """Last: everything above has been logged and counted by then."""
    for name in NAMES:
        gated.bearer(attacks[name])
    exposition = gated.worker.management.get("/metrics").text
    seen = set(re.findall(r'zimage_auth_failures_total\{reason="([^"]*)"\}', exposition))
    assert seen <= REASONS
    assert {"token_signature", "token_key", "token_header", "token_expired", "token_audience"} <= seen
    logs = gated.worker.logs()
    for secret in ("canary", "eyJ", gated.issuer.token().split(".")[0], basic(f"alice:{PASSWORD}")[6:]):
        assert secret not in logs + exposition
    assert " - carla [" in logs
    assert "Traceback" not in logs
    assert " 500 " not in logs
