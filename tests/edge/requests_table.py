"""One table of requests for every edge, and what a row needs of the edge that it is asked through.

A row is a function of an `Edge` (client.py). It asserts what a client meets and gives who gave it:
"edge", or "worker" where the answer came from behind. `SERVICES` says what is published behind each
host. Nothing in here knows which proxy it talks to, or starts one.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from . import smuggled
from .client import ALICE, PASSWORD, PATIENCE_SECONDS, USER, Edge, basic, eventually, giver, host, logged, raw_request

MANY = {"requestsPerMinute": 100000, "burst": 10000}
# What each host is published with, beside className and tls: parts of `spec.auth` and `spec.ingress`.
BASIC: dict[str, Any] = {"basic": {"secretName": "studio-users"}}
ANY: dict[str, Any] = {
    **BASIC,
    "jwt": {"issuer": "https://issuer.example.org/", "audiences": ["zimage"], "jwks": {"secretName": "studio-jwks"}},
}
# The 61st request at once from one address is one too many.
LIMIT = {"requestsPerMinute": 60, "burst": 60}
SERVICES: dict[str, dict[str, Any]] = {
    # Passwords alone.
    "basic": {"auth": BASIC, "ingress": {"rateLimit": MANY}},
    # Passwords and tokens.
    "any": {"auth": ANY, "ingress": {"rateLimit": MANY}},
    # A rate that a test can reach; its worker has the same.
    "limited": {"auth": BASIC, "ingress": {"rateLimit": LIMIT}},
    # For the addresses `Edge.inside` alone; what these are the edge's test decides.
    "narrow": {"auth": BASIC, "ingress": {"rateLimit": MANY, "allowedSourceRanges": []}},
}
ORDER = {"prompt": "a red fox", "size": "64x64", "steps": 2}


def no_credentials(edge: Edge) -> str:
    """Without credentials: 401, and the challenge says what is taken."""
    answer = edge.ask("basic")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Basic realm="zimage"')
    both = edge.ask("any")
    assert both.status_code == 401
    assert both.headers["www-authenticate"].startswith('Basic realm="zimage"')
    return giver(answer)


def wrong_credentials(edge: Edge) -> str:
    """A wrong password, an unknown user, a malformed header: 401."""
    for user, password in ((USER, "canary-wrong"), ("nobody", PASSWORD), ("", ""), (USER, "")):
        answer = edge.ask("basic", auth=(user, password))
        assert answer.status_code == 401, f"{user}: {answer.status_code}"
    for header in ("Basic", "Basic !", "Digest x", "Bearer", f"Bearer {PASSWORD}"):
        assert edge.ask("basic", headers={"Authorization": header}).status_code in {400, 401}, header
    return giver(answer)


def right_password(edge: Edge) -> str:
    """The right password: 200, also where tokens are taken too."""
    answer = edge.ask("basic", auth=ALICE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["object"] == "list"
    assert edge.ask("any", auth=ALICE).status_code == 200
    return "edge"


def right_token(edge: Edge) -> str:
    """The issuer's token: 200."""
    answer = edge.ask("any", bearer=edge.token())
    assert answer.status_code == 200, answer.text
    return "edge"


def wrong_token(edge: Edge) -> str:
    """An expired token, one of another audience, a forged one, none at all behind the word: 401."""
    for bearer in (edge.token(exp=1), edge.token(aud="another"), f"{edge.token()[:-8]}AAAAAAAA", "x.y.z"):
        answer = edge.ask("any", bearer=bearer)
        assert answer.status_code == 401
        assert "Bearer" in answer.headers["www-authenticate"]
    return giver(answer)


def plain_http(edge: Edge) -> str:
    """Plain HTTP is redirected or refused, and credentials shown over it get nobody in."""
    mark = f"/v1/models?plain={edge.name}"
    host = edge.hosts["basic"]
    for auth in (None, ALICE):
        try:
            answer = httpx.get(f"http://{edge.address}:{edge.http_port}{mark}", headers={"Host": host}, auth=auth)
        except httpx.TransportError:
            continue
        assert answer.status_code in {301, 302, 307, 308, 404, 426}
        assert giver(answer) == "edge"
        if answer.is_redirect:
            assert answer.headers["location"].startswith(f"https://{host}")
    return "edge"


def old_tls(edge: Edge) -> str:
    """TLS 1.1 is refused, by the edge's own alert."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(edge.ca)
    # Otherwise it is our own OpenSSL that refuses.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    raw = socket.create_connection((edge.address, edge.https_port), PATIENCE_SECONDS)
    with raw, pytest.raises((ssl.SSLError, ConnectionResetError)) as refused:
        context.wrap_socket(raw, server_hostname=edge.hosts["basic"])
    assert "no protocols" not in str(refused.value).lower(), "our own OpenSSL refused"
    return "edge"


def unknown_host(edge: Edge) -> str:
    """Another name: no handshake, or neither a certificate of ours nor an answer but a refusal."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name in ("unknown.example.org", None):
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            socket.create_connection((edge.address, edge.https_port), PATIENCE_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=name) as wrapped,
        ):
            certificate = wrapped.getpeercert(binary_form=True) or b""
            assert not any(host.encode() in certificate for host in edge.hosts.values()), "a certificate of ours"
    for name in ("unknown.example.org", "", "unknown.example.org:443", f"{edge.hosts['basic']}.unknown.example.org"):
        with edge.client() as client:
            about = edge.about("basic", {"Host": name})
            answer = client.get(edge.url("/v1/models"), auth=ALICE, **about)
        assert answer.status_code in {400, 403, 404, 421}, f"{name!r}: {answer.status_code}"
    return giver(answer)


def rate_limit(edge: Edge) -> str:
    """The 61st request at once from one address: 429; another address is served."""
    began = time.monotonic()
    passed, answer = exhausted(edge)
    # One more comes back with each second; nginx counts the first one apart.
    assert 60 <= passed <= 62 + (time.monotonic() - began)
    assert edge.ask("limited").status_code == 401
    return giver(answer)


def retry_after(edge: Edge) -> str:
    """Who is told to wait is told for how long."""
    _, answer = exhausted(edge)
    assert int(answer.headers["retry-after"]) >= 1
    return giver(answer)


def exhausted(edge: Edge) -> tuple[int, httpx.Response]:
    """Ask until it is too much; how often it was not, and the refusal.

    As a stranger first: an edge counts before it asks who somebody is, for that is what costs. A worker counts
    those whom it knows (and, apart from that, wrong passwords).
    """
    for auth, usual in ((None, 401), (ALICE, 200)):
        with edge.client() as client:
            for passed in range(200):
                answer = client.get(edge.url("/v1/models"), auth=auth, **edge.about("limited"))
                if answer.status_code != usual:
                    assert answer.status_code == 429, answer.text
                    return passed, answer
    raise AssertionError("no limit")


def source_range(edge: Edge) -> str:
    """Outside `allowedSourceRanges`: 403 whatever is shown; inside: as everywhere."""
    outside = edge.ask("narrow", auth=ALICE)
    assert outside.status_code == 403
    assert edge.ask("narrow", auth=ALICE, source=edge.inside).status_code == 200
    assert edge.ask("narrow", source=edge.inside).status_code == 401
    return giver(outside)


# One more than maxBodySize says by default (4Mi).
TOO_LARGE_BYTES = 4 * 1024 * 1024 + 1


def body_size(edge: Edge) -> str:
    """A body over `maxBodySize`: 413, on the one path that takes files too; one below is no matter of size."""
    parts = {"image": ("a.png", b"\0" * TOO_LARGE_BYTES, "image/png")}
    answer = edge.ask("any", "/v1/images/edits", method="POST", auth=ALICE, data={"prompt": "x"}, files=parts)
    assert answer.status_code == 413
    smaller = {"image": ("a.png", b"\0" * (TOO_LARGE_BYTES // 2), "image/png")}
    less = edge.ask("any", "/v1/images/edits", method="POST", auth=ALICE, data={"prompt": "x"}, files=smaller)
    assert less.status_code == 400
    return giver(answer)


def picture(edge: Edge) -> str:
    """A picture comes back whole."""
    answer = edge.ask("any", "/v1/images/generations", method="POST", auth=ALICE, json=ORDER)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == 1
    return "edge"


def streaming(edge: Edge) -> str:
    """A stream arrives event by event: the first is here while the worker is still at work."""
    order = {**ORDER, "steps": 200, "stream": True, "progress": True}
    about = edge.about("any")
    with (
        edge.client() as client,
        client.stream("POST", edge.url("/v1/images/generations"), auth=ALICE, json=order, **about) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        lines = (line for line in answer.iter_lines() if line.startswith("event: "))
        next(lines)
        assert edge.metric("zimage_requests_running") == 1, "the first event came with the last"
        names = list(lines)
    assert names[-1] == "event: image_generation.completed"
    return "edge"


def client_leaves(edge: Edge) -> str:
    """A client that leaves frees the device: its request ends long before its steps would."""
    left = 'zimage_requests_total{outcome="disconnected"}'
    before = edge.metric(left)
    order = {**ORDER, "steps": 1000, "stream": True, "progress": True}
    with (
        edge.client() as client,
        client.stream(
            "POST", edge.url("/v1/images/generations"), auth=ALICE, json=order, **edge.about("any")
        ) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        next(line for line in answer.iter_lines() if line.startswith("event: "))
    eventually(lambda: edge.metric(left) == before + 1, "the worker noticed that the client left")
    assert edge.metric("zimage_requests_running") == 0
    return "edge"


# By blanks: no target has one.
TRICKS = rb"""
/.. /../ /../../etc/passwd /v1/../healthz/../v1/models /healthz/../v1/models /healthz/%2e%2e/v1/models
/%2e%2e/%2e%2e/etc/passwd /.%2e/v1/models /v1/%2e/models /./v1/models //v1/models // ///v1//models /v1%2fmodels
/v1%2Fmodels /%2fv1/models /healthz%2f..%2fv1%2fmodels /v1/models%00 /v1/models%00.png /v1/models. /v1/models/
/v1/models.. /v1/models;a=b /healthz;/../v1/models /healthz/..;/v1/models /v1/models%20 /%76%31/models
/V1/models /static/ /static /static/../ /static/%2e%2e/%2e%2e/etc/passwd /docs /openapi.json /metrics /posture
/health/ready /auth/verify /auth/verify/../../v1/models /v1\models /..\..\etc\passwd /%5c..%5cv1/models
/v1/models?a=../.. /v1/models#/healthz /healthz?/v1/models /healthz#/v1/models /%252e%252e/v1/models
/v1/%c0%ae%c0%ae/models /.well-known/acme-challenge/../../v1/models /token/../v1/models /favicon.ico /_verify
/_jwt /nginx_status /api/rawdata /dashboard/
""".split()


def path_tricks(edge: Edge) -> str:
    """No path shows anything to a stranger: no listing, no file, no way around the question for credentials."""
    for target in TRICKS:
        answer = raw_request(edge, "basic", b"GET " + target + b" HTTP/1.1\r\nHost: %s\r\n" % host(edge, "basic"))
        status, body = answer.status, answer.body
        refused = status in {400, 401, 403, 404, 421} | edge.redirects
        harmless = refused or (target.startswith(b"/healthz") and not body)
        assert harmless, f"{target!r}: {status} {body[:200]!r}"
        assert b"object" not in body, target
        assert b"root:" not in body, target
        assert b"Index of" not in body, target
    return "edge"


def smuggling(edge: Edge) -> str:
    """No request hides in another one: what the worker is asked, the edge has seen as a request of its own.

    Over 200 ways of telling two readers two lengths, each behind right credentials and with a request without any in
    its body. After each the next client still gets its own answer.
    """
    variants = smuggled.variants(edge.name, host(edge, "basic"), basic(ALICE))
    assert len(variants) >= 330
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda data: smuggled.send(edge, data), variants.values()))
    for _ in range(20):
        name = f"victim-{time.time_ns()}"
        answer = edge.ask("basic", auth=ALICE, headers={"X-Request-Id": name})
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, name)
    name = re.compile(rf"smuggled-{re.escape(edge.name)}-\w+")

    def unseen() -> set[str]:
        """What the worker took for a request, and the edge has not written down."""
        reached, seen = (set(name.findall(log())) for log in (edge.worker_log, edge.edge_log))
        return reached - seen

    # An edge writes its line last, and Envoy some ten seconds after that.
    with contextlib.suppress(AssertionError):
        eventually(lambda: not unseen(), "the edge's log")
    assert unseen() == set(), "the worker was asked what the edge never saw"
    # Some of them every edge takes for a second request, rightly: the names are found where they have to be.
    assert name.search(edge.worker_log())
    assert "Traceback" not in edge.worker_log()
    assert '" 500 ' not in edge.worker_log()
    return "edge"


FORGED = {
    "X-Forwarded-For": "203.0.113.9, 203.0.113.10",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9;host=evil.example.org",
    **dict.fromkeys(("X-Auth-User", "X-Auth_User", "X.Auth.User", "X-Forwarded-User", "Remote-User"), "root"),
    **dict.fromkeys(("X-Forwarded-Host", "X-Forwarded-Server", "X-Host"), "evil.example.org"),
    **dict.fromkeys(("X-Forwarded-Uri", "X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix"), "/healthz"),
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Method": "OPTIONS",
}


def forged_headers(edge: Edge) -> str:
    """What a client says of its address, its host or its name is never believed; its own address is."""
    source, mark = next(edge.sources), f"forged-{time.time_ns()}"
    forged = {**FORGED, "User-Agent": mark}
    if edge.refuses_underscores:
        assert edge.ask("any", headers={"X-Auth_User": forged.pop("X-Auth_User")}).status_code == 400
    assert edge.ask("any", headers=forged, source=source).status_code == 401
    answer = edge.ask("any", headers=forged, source=source, bearer=edge.token())
    assert answer.status_code == 200, answer.text
    lines = eventually(
        lambda: [line for line in edge.worker_log().splitlines() if mark in line and " 200 " in line], "a line"
    )
    assert all(re.match(rf"{re.escape(source) if source else '.*'} - carla \[", line) for line in lines), lines
    assert "203.0.113." not in "".join(lines)
    return "edge"


def two_authorizations(edge: Edge) -> str:
    """Credentials twice: never one for the edge and another for the worker."""
    good, bad = basic(ALICE), basic((USER, "canary-wrong"))
    for first, second in ((good, bad), (bad, good)):
        answer = raw_request(
            edge,
            "basic",
            b"GET /v1/models HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nAuthorization: %s\r\n"
            % (host(edge, "basic"), first, second),
        )
        assert answer.status in {400, 401}, answer.status
    return "edge"


def response_headers(edge: Edge) -> str:
    """Every answer of the service carries what keeps browsers safe, and names no software."""
    answer = edge.ask("basic", auth=ALICE)
    assert re.match(r"max-age=\d{8}", answer.headers["strict-transport-security"])
    wanted = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer"}
    assert {name: answer.headers[name] for name in wanted} == wanted
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return "edge"


def no_versions(edge: Edge) -> str:
    """No answer, a refusal neither, names a version."""
    for answer in (edge.ask("basic", auth=ALICE), edge.ask("basic"), edge.ask("basic", "/nowhere", auth=ALICE)):
        told = " ".join(answer.headers.get(name, "") for name in ("server", "via", "x-powered-by"))
        assert not re.search(r"\d", told), told
        assert not re.search(r"(nginx|traefik|envoy|uvicorn)/\d", answer.text, re.IGNORECASE)
    return "edge"


def access_log(edge: Edge) -> str:
    """The edge's own access log has the fields of the seed: from where, when, what, the answer, how long."""
    mark, source = f"seen-{time.time_ns()}", next(edge.sources)
    edge.ask("basic", auth=ALICE, source=source, headers={"User-Agent": mark, "Referer": "https://here.example.org/"})
    line = eventually(lambda: next((one for one in edge.edge_log().splitlines() if mark in one), ""), "a line")
    told = logged(line)
    assert told["user"] in {USER, "-"}
    assert told["request"].startswith("GET /v1/models HTTP/1.1")
    assert told["status"] == "200"
    assert int(told["bytes"]) > 0
    assert told["referer"] == "https://here.example.org/"
    assert told["agent"] == mark
    assert source is None or told["address"] == source
    assert float(told["seconds"]) >= 0
    return "edge"


def user_in_log(edge: Edge) -> str:
    """The edge's own access log names who signed in with a password."""
    mark = f"named-{time.time_ns()}"
    edge.ask("basic", auth=ALICE, headers={"User-Agent": mark})
    line = eventually(lambda: next((one for one in edge.edge_log().splitlines() if mark in one), ""), "a line")
    assert logged(line)["user"] == USER
    return "edge"


Row = Callable[[Edge], str]
ROWS: dict[str, Row] = {
    row.__name__: row
    for row in (
        no_credentials, wrong_credentials, right_password, right_token, wrong_token, two_authorizations, forged_headers,
        plain_http, old_tls, unknown_host, rate_limit, retry_after, source_range, body_size, picture, streaming,
        client_leaves, path_tricks, smuggling, response_headers, no_versions, access_log, user_in_log,
    )
}  # fmt: skip


def title(row: str) -> str:
    """What a row asks for, in a sentence."""
    return (ROWS[row].__doc__ or "").strip().partition("\n")[0].rstrip(".")


def check(edge: Edge, row: str, given: str) -> None:
    """Hold one row against what is written of this edge: who gives it, or `-` and why nobody does.

    A row that is said not to be given must really fail: what an edge learns to give is written down.
    """
    if not given.startswith("-"):
        assert ROWS[row](edge) == given
        return
    try:
        seen = ROWS[row](edge)
    except (AssertionError, KeyError, httpx.TransportError):
        return
    raise AssertionError(f"{edge.name} gives {row} ({seen}) although it is written that it does not: {given}")
