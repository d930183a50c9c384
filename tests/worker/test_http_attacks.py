"""What strangers send instead of HTTP, to both ports of the real process."""

from __future__ import annotations

import gzip
import json

import pytest

from raw_http import Answer, connect, exchange, read_answer

# Whatever the app says to a well-formed request: it is an answer, and never a 500.
ANSWERED = {200, 400, 401, 404, 405, 413, 415, 421}
JSON = b'{"prompt": "a fox", "size": "64x64", "steps": 1}'
HOST = b"Host: 127.0.0.1\r\n"


def head(line: bytes, *fields: bytes, host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def get(target: bytes, *fields: bytes, host: bytes = HOST) -> bytes:
    return head(b"GET " + target + b" HTTP/1.1", *fields, host=host)


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return head(b"POST /v1/images/generations HTTP/1.1", b"Content-Type: application/json", *fields) + body


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


# Behind every case, to see where the server thinks that the next request begins.
LAST = get(b"/healthz", b"X-Request-Id: last")
CHUNKED = b"Transfer-Encoding: chunked"
ZIPPED = gzip.compress(JSON)
SMUGGLED = get(b"/smuggled", b"X-Request-Id: smuggled")
# name: (bytes, the status it must get, or a set of them). An int stands for the protocol's own refusal.
CASES: dict[str, tuple[bytes, int | set[int]]] = {
    # Lengths that two readers read differently
    "two content-lengths": (post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd") + SMUGGLED, 400),
    "content-length list": (post(b"Content-Length: 3, 4", body=b"abcd") + SMUGGLED, 400),
    "content-length and chunked": (post(b"Content-Length: 4", CHUNKED, body=b"0\r\n\r\n") + SMUGGLED, 400),
    "chunked and content-length": (post(CHUNKED, b"Content-Length: 40", body=b"0\r\n\r\n") + SMUGGLED, 400),
    "chunked in HTTP/1.0": (head(b"POST / HTTP/1.0", CHUNKED) + b"0\r\n\r\n" + SMUGGLED, 400),
    "two transfer-encodings": (post(CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n"), 400),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 400),
    "chunked, identity": (post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"), 400),
    "xchunked": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
    "quoted chunked": (post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), 400),
    "blank before the colon": (post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n") + SMUGGLED, 400),
    "tab before the colon": (post(b"Content-Length\t: 4", body=b"abcd"), 400),
    "vertical tab in the value": (post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    "signed length": (post(b"Content-Length: +4", body=b"abcd"), 400),
    "negative length": (post(b"Content-Length: -1"), 400),
    "hexadecimal length": (post(b"Content-Length: 0x4", body=b"abcd"), 400),
    "length with underscore": (post(b"Content-Length: 1_0", body=b"abcdefghij"), 400),
    "length in Arabic digits": (post("Content-Length: ٤".encode(), body=b"abcd"), 400),
    "empty length": (post(b"Content-Length:", body=b"abcd"), 400),
    "length of 5,000 digits": (post(b"Content-Length: " + b"9" * 5000), ANSWERED),
    "length above every limit": (post(b"Content-Length: 999999999999"), ANSWERED),
    # Chunks
    "chunk size no number": (post(CHUNKED, body=b"zz\r\nab\r\n0\r\n\r\n"), {400, 405, 404, 401}),
    "chunk size signed": (post(CHUNKED, body=b"+2\r\nab\r\n0\r\n\r\n"), {400, 405, 404, 401}),
    "chunk size of 100 digits": (post(CHUNKED, body=b"f" * 100 + b"\r\n"), {400, 405, 404, 401}),
    "chunk longer than its size": (post(CHUNKED, body=b"2\r\nabcd\r\n0\r\n\r\n"), {400, 405, 404, 401}),
    "chunk extension": (post(CHUNKED, body=b"2;a=b\r\n{}\r\n0\r\n\r\n"), ANSWERED),
    "chunk extension bomb": (post(CHUNKED, body=b"2;" + b"a" * 100_000), {400, 404, 431}),
    "trailer": (post(CHUNKED, body=b"2\r\n{}\r\n0\r\nX-Late: 1\r\n\r\n"), ANSWERED),
    "trailer bomb": (post(CHUNKED, body=b"0\r\n" + b"X-Late: 1\r\n" * 20_000), {400, 401, 404, 431}),
    "chunked bomb": (post(CHUNKED, body=chunked(*[b"a" * 1000] * 300)), {404, 413}),
    "one-byte chunks": (post(CHUNKED, body=chunked(*[b"a"] * 2000)), ANSWERED),
    "body compressed": (post(b"Content-Encoding: gzip", b"Content-Length: %d" % len(ZIPPED), body=ZIPPED), ANSWERED),
    "body of 300 kB": (post(b"Content-Length: 300000", body=b"a" * 300_000), {404, 413}),
    "body on GET": (get(b"/healthz", b"Content-Length: 4") + b"abcd", ANSWERED),
    # Targets
    "absolute form": (get(b"http://127.0.0.1/healthz"), 400),
    "absolute form of another": (get(b"http://evil.example.org/healthz"), 400),
    "scheme without a host": (get(b"file:///etc/passwd"), 400),
    "authority form": (get(b"127.0.0.1:7860"), 400),
    "CONNECT": (head(b"CONNECT 127.0.0.1:22 HTTP/1.1"), 400),
    "CONNECT with a path": (head(b"CONNECT /healthz HTTP/1.1") + SMUGGLED, 400),
    "asterisk": (head(b"OPTIONS * HTTP/1.1"), ANSWERED),
    "asterisk with GET": (get(b"*"), ANSWERED),
    "TRACE": (head(b"TRACE /healthz HTTP/1.1", b"Cookie: canary-trace"), ANSWERED),
    "made-up method": (head(b"CANARYMETHOD /healthz HTTP/1.1"), ANSWERED),
    "lower-case method": (head(b"get /healthz HTTP/1.1"), ANSWERED),
    "method of 5,000 letters": (head(b"A" * 5000 + b" / HTTP/1.1"), ANSWERED),
    "no target": (head(b"GET  HTTP/1.1"), 400),
    "blank in the target": (get(b"/a b"), 400),
    "tab in the target": (get(b"/a\tb"), 400),
    "NUL in the target": (get(b"/\x00"), 400),
    "8-bit target": (get(b"/\xff"), 400),
    "fragment": (get(b"/healthz#a"), ANSWERED),
    "two slashes": (get(b"//evil.example.org/healthz"), ANSWERED),
    "dots": (get(b"/../../../../etc/passwd"), ANSWERED),
    "encoded dots": (get(b"/%2e%2e/%2e%2e/etc/passwd"), ANSWERED),
    "twice encoded": (get(b"/%252e%252e%252fetc"), ANSWERED),
    "overlong UTF-8": (get(b"/%c0%ae%c0%ae/"), ANSWERED),
    "encoded slash": (get(b"/v1%2fmodels"), ANSWERED),
    "encoded NUL": (get(b"/healthz%00"), ANSWERED),
    "encoded line end": (get(b"/%0d%0aSet-Cookie:%20a=b"), ANSWERED),
    "half an escape": (get(b"/%"), ANSWERED),
    "backslash": (get(b"/\\evil"), ANSWERED),
    "target of 5 kB": (get(b"/" + b"a" * 5000), 414),
    "target of 100 kB": (get(b"/" + b"a" * 100_000), {414, 431}),
    "query of 100 kB": (get(b"/healthz?" + b"a" * 100_000), {414, 431}),
    # Hosts
    "no host": (get(b"/healthz", host=b""), 400),
    "two hosts": (get(b"/healthz", b"Host: evil.example.org"), 400),
    "two hosts, the same": (get(b"/healthz", b"Host: 127.0.0.1"), 400),
    "empty host": (get(b"/healthz", host=b"Host:\r\n"), ANSWERED),
    "host with a path": (get(b"/healthz", host=b"Host: 127.0.0.1/evil\r\n"), ANSWERED),
    "host with a user": (get(b"/healthz", host=b"Host: evil@127.0.0.1\r\n"), ANSWERED),
    "host folded": (get(b"/healthz", host=b"Host:\r\n 127.0.0.1\r\n"), ANSWERED),
    # Lines
    "bare LF": (b"GET /healthz HTTP/1.1\nHost: 127.0.0.1\n\n", ANSWERED),
    "bare CR": (b"GET /healthz HTTP/1.1\rHost: 127.0.0.1\r\r\r\n\r\n", 400),
    "CR in a value": (get(b"/healthz", b"X-A: a\rX-B: b"), 400),
    "NUL in a value": (get(b"/healthz", b"X-A: a\x00b"), 400),
    "NUL in a name": (get(b"/healthz", b"X\x00A: a"), 400),
    "no name": (get(b"/healthz", b": a"), 400),
    "no colon": (get(b"/healthz", b"X-A"), 400),
    "obs-fold": (get(b"/healthz", b"X-A: a\r\n b"), ANSWERED),
    "fold at the start": (b"GET /healthz HTTP/1.1\r\n Host: 127.0.0.1\r\n\r\n", 400),
    "empty line first": (b"\r\n" + get(b"/healthz"), {200, 400, 404}),
    "8-bit value": (get(b"/healthz", b"X-A: \xff\xfe"), ANSWERED),
    # Bombs
    "200 fields": (get(b"/healthz", *[b"X-%d: a" % number for number in range(200)]), 431),
    "5,000 fields": (get(b"/healthz", *[b"X-%d: a" % number for number in range(5000)]), 431),
    "a field of 20 kB": (get(b"/healthz", b"X-A: " + b"a" * 20_000), 431),
    "a field of 200 kB": (get(b"/healthz", b"X-A: " + b"a" * 200_000), 431),
    "a header without end": (b"GET /healthz HTTP/1.1\r\nX-A: " + b"a" * 2_000_000, 431),
    "a cookie of 10 kB": (get(b"/healthz", b"Cookie: " + b"a" * 10_000), ANSWERED),
    # Other protocols
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", 400),
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n", ANSWERED),
    "HTTP/1.2": (head(b"GET /healthz HTTP/1.2"), {200, 400, 404}),
    "HTTP/2.0": (head(b"GET /healthz HTTP/2.0"), 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "h2c upgrade": (
        get(b"/healthz", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), ANSWERED
    ),
    "websocket upgrade": (
        get(b"/healthz", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: AAAA"), ANSWERED
    ),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + b"\x00" * 200 + b"\r\n\r\n", 400),
    "SSH": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", 400),
    "SMTP": (b"EHLO evil.example.org\r\n\r\n", 400),
    "PROXY protocol": (b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n" + get(b"/healthz"), 400),
    "zeros": (b"\x00" * 40_000, {400, 431}),
    "expect something else": (post(b"Expect: 200-ok", b"Content-Length: 2", body=b"{}"), ANSWERED),
}  # fmt: skip


@pytest.fixture(params=["api", "management"])
def port(worker, request: pytest.FixtureRequest) -> int:
    found: int = worker.port if request.param == "api" else worker.management_port
    return found


def shaped(answer: Answer) -> None:
    """Every answer bears the security headers and an id; every error is OpenAI's."""
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["x-request-id"]
    assert not {"server", "access-control-allow-origin"} & set(answer.headers)
    if answer.status >= 400:
        assert set(answer.error()) == {"message", "type", "param", "code"}
        assert b"canary" not in answer.body


def healthy(port: int) -> None:
    """Somebody else gets the answer to his own question."""
    (answer,) = exchange(port, get(b"/health/live", b"X-Request-Id: honest", b"Connection: close"))
    assert answer.headers["x-request-id"] == "honest"
    assert answer.status in {200, 401}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_or_answered_and_nobody_else_notices(worker, port: int, name: str) -> None:
    data, expected = CASES[name]
    answers = exchange(port, data + LAST, last="last")
    assert answers, "no answer at all"
    for answer in answers:
        shaped(answer)
        assert answer.status < 500
        assert answer.headers["x-request-id"] != "smuggled"
    if isinstance(expected, int):
        # After its own refusal the protocol reads nothing more: what follows may belong to anybody.
        assert [answer.status for answer in answers] == [expected], answers
        assert answers[0].headers["connection"] == "close"
    else:
        assert answers[0].status in expected
    healthy(port)


def test_enough_is_tried() -> None:
    assert len(CASES) >= 60


def test_no_attack_left_a_traceback_or_a_500(worker) -> None:
    logs = worker.logs()
    assert "Traceback" not in logs
    assert '" 500 ' not in logs
    assert "CANARYMETHOD" not in logs


def test_pipelined_requests_are_answered_in_their_order(port: int) -> None:
    data = b"".join(get(b"/healthz?%d" % number, b"X-Request-Id: p-%d" % number) for number in range(50))
    with connect(port) as raw, raw.makefile("rb") as stream:
        raw.sendall(data)
        answers = [read_answer(stream) for _ in range(50)]
    assert [answer and answer.headers["x-request-id"] for answer in answers] == [f"p-{n}" for n in range(50)]


def test_a_bad_request_behind_good_ones_ends_the_connection_after_their_answers(port: int) -> None:
    good = get(b"/healthz", b"X-Request-Id: good")
    answers = exchange(port, good + good + b"nonsense\r\n\r\n" + SMUGGLED)
    assert [answer.headers["x-request-id"] == "good" for answer in answers] == [True, True, False]
    assert answers[2].status == 400


def test_two_clients_never_get_each_other_s_answer(port: int) -> None:
    pairs = [connect(port) for _ in range(40)]
    for number, raw in enumerate(pairs):
        raw.sendall(get(b"/healthz", b"X-Request-Id: c-%d" % number, b"Connection: close"))
    for number, raw in reversed(list(enumerate(pairs))):
        with raw, raw.makefile("rb") as stream:
            answer = read_answer(stream)
            assert answer
            assert answer.headers["x-request-id"] == f"c-{number}"


def test_a_refused_body_is_not_read_as_the_next_request(worker) -> None:
    """413 comes before the body; what follows is still the body."""
    inner = get(b"/healthz", b"X-Request-Id: smuggled")
    answers = exchange(worker.port, post(b"Content-Length: 100000", body=inner + b"a" * (100_000 - len(inner))))
    assert [answer.status for answer in answers] == [413]


def test_less_than_was_promised_is_no_request(worker) -> None:
    before = worker.metric('zimage_requests_total{outcome="success"}')
    assert exchange(worker.port, post(b"Content-Length: 1000", body=JSON), half_close=True) == []
    assert worker.metric('zimage_requests_total{outcome="success"}') == before


def test_head_has_no_body_and_the_next_answer_follows(port: int) -> None:
    with connect(port) as raw, raw.makefile("rb") as stream:
        raw.sendall(head(b"HEAD /health/live HTTP/1.1") + get(b"/health/live", b"X-Request-Id: second"))
        first, second = read_answer(stream, head_only=True), read_answer(stream)
    assert first
    assert second
    assert second.headers["x-request-id"] == "second"


def test_both_ports_name_the_method_and_the_missing_path_alike(worker) -> None:
    auth = ("alice", "canary-password-7f3a")
    for client, options, path, allow in (
        (worker.api, {"auth": auth}, "/v1/images/generations", "POST"),
        (worker.management, {}, "/metrics", "GET, HEAD"),
    ):
        wrong, nothing = client.request("DELETE", path, **options), client.get("/nothing", **options)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, allow)
        assert wrong.json()["error"]["code"] == "method_not_allowed"
        assert (nothing.status_code, nothing.json()["error"]["code"]) == (404, "not_found")
        assert set(nothing.json()["error"]) == {"message", "type", "param", "code"}
        assert nothing.headers["x-request-id"]


def test_unicode_and_numbers_in_json_never_break_the_answer(worker) -> None:
    for body in (b'{"prompt": "\\ud800"}', b'{"prompt": 1e999}', b'{"seed": ' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}"):
        answer = worker.api.post(
            "/v1/images/generations", content=body, auth=("alice", "canary-password-7f3a"),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        assert answer.status_code == 400, body
        json.loads(answer.content)
