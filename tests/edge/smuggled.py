"""Requests that two readers might cut at different places, generated: each hides another behind or in its body.

Whose reading is right does not matter here: it matters that the edge and the worker agree, so the hidden one bears a
mark that both write into their logs.
"""

from __future__ import annotations

import contextlib
import ssl
from itertools import product

from .client import Edge

# Nobody waits longer for an answer that may never come: a reader that still waits for a body is no desync.
SILENCE_SECONDS = 0.5
CRLF = b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked"

# How `Transfer-Encoding: chunked` is written so that one reader sees it and another does not.
CODINGS = [
    CHUNKED, b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b"Transfer-Encoding:chunked",
    b"Transfer-Encoding:\tchunked", b"Transfer-Encoding:  chunked", b"Transfer-Encoding: chunked ",
    b"Transfer-Encoding: chunked\t", b" Transfer-Encoding: chunked", b"\tTransfer-Encoding: chunked",
    b"transfer-encoding: CHUNKED", b"Transfer-Encoding: chunKed", b"Transfer_Encoding: chunked",
    b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunkedx", b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked\x0b", b"Transfer-Encoding: \x0cchunked",
    b"Transfer-Encoding: \x00chunked", b"Transfer-Encoding: chunked\x00", b"Transfer-Encoding: \xffchunked",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: ,chunked", b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding: cow", b"Transfer-Encoding:",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", b"Transfer-Encoding:\r\n chunked",
    b"X-A: b\r\n Transfer-Encoding: chunked", b"X-A: b\nTransfer-Encoding: chunked",
    b"X-A: b\rTransfer-Encoding: chunked", b"Transfer-Encoding\r\n: chunked", b"Transfer-Encoding: chunked\r",
    b"Transfer-Encoding\x00: chunked", b"Content-Encoding: chunked", b"TE: chunked", b"Transfer-Encoding: 'chunked'",
    b"Transfer-Encoding\r\n : chunked", b"Transfer-Encoding: chunk\xc5\xbfed",
    b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
]  # fmt: skip

# How a length is written twice, or not as a number.
LENGTHS = [
    b"Content-Length: 0\r\nContent-Length: %d", b"Content-Length: %d\r\nContent-Length: 0",
    b"Content-Length: 0, %d", b"Content-Length: %d, 0", b"Content-Length: +%d", b"Content-Length: -%d",
    b"Content-Length: 0x%x", b"Content-Length: 0%d", b"Content-Length: %d.0", b"Content-Length: %d\x00",
    b"Content-Length : %d", b"Content-Length\t: %d", b" Content-Length: %d", b"Content_Length: %d",
    b"Content-Length:\r\n %d", b"X-A: b\nContent-Length: %d", b"X-A: b\rContent-Length: %d", b"Content-Length: %d 0",
    b"Content-Length: %de0", b"Content-Length: 18446744073709551616\r\nX-A: %d", b'Content-Length: "%d"',
    b"Content-Length: %d ", b"Content-Length:\x0b%d",
]  # fmt: skip

# Where a chunk ends: sizes, extensions, line ends, trailers. Behind each of them comes the hidden request.
CHUNKS = [
    b"2;a=b\r\n{}\r\n0\r\n\r\n", b"2;\r\n{}\r\n0\r\n\r\n", b'2;a="b\r\n{}\r\n0\r\n\r\n', b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    b"2 \r\n{}\r\n0\r\n\r\n", b" 2\r\n{}\r\n0\r\n\r\n", b"0x2\r\n{}\r\n0\r\n\r\n", b"+2\r\n{}\r\n0\r\n\r\n",
    b"-2\r\n{}\r\n0\r\n\r\n", b"2\n{}\n0\n\n", b"2\r\n{}\n0\r\n\r\n", b"2\r{}\r0\r\r", b"2\r\n{}0\r\n\r\n",
    b"2\r\n{}\r\n0\n\n", b"2\r\n{}\r\n0\r\n\n", b"2\r\n{}\r\n00000000000000000\r\n\r\n",
    b"10000000000000002\r\n{}\r\n0\r\n\r\n", b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n", b"2\r\n{}\r\n0;a=b\r\n\r\n",
    b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n", b"2\r\n{}\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"2\r\n{}\r\n0\r\nHost: evil.example.org\r\n\r\n", b"2\r\n{}\r\n0\r\nX-A: b\r\n\r\n", b"2\r\n{}\r\n\r\n0\r\n\r\n",
    b"2\r\n{}\r\n0\r\n", b"1_0\r\n{}\r\n0\r\n\r\n", b"2\x00\r\n{}\r\n0\r\n\r\n", b"\r\n2\r\n{}\r\n0\r\n\r\n",
    b"0;a=b\r\n\r\n", b"0;\n\r\n", b"00\r\n\r\n", b"0 \r\n\r\n", b"0x0\r\n\r\n", b"-0\r\n\r\n",
    b"ffffffffffffffff0\r\n\r\n",
]  # fmt: skip

# A body where none is expected.
METHODS = [b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"POST", b"PUT", b"TRACE", b"PATCH"]
PATHS = [b"/", b"/healthz", b"/v1/models", b"/v1/images/generations", b"/token", b"/auth/verify"]

# Lines and versions that one reader forgives.
HEADS = [
    b"GET /v1/models HTTP/1.1\nHost: @HOST@\n@REST@\n\n", b"GET /v1/models HTTP/1.1\rHost: @HOST@\r@REST@\r\r",
    b"GET /v1/models HTTP/1.0\r\nHost: @HOST@\r\nConnection: keep-alive\r\n@REST@\r\n\r\n",
    b"GET /v1/models HTTP/1.2\r\nHost: @HOST@\r\n@REST@\r\n\r\n", b"GET /v1/models HTTP/2.0\r\nHost: @HOST@\r\n\r\n",
    b"GET /v1/models\r\n", b"\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: @HOST@\r\n@REST@\r\n\r\n",
    b"GET  /v1/models HTTP/1.1\r\nHost: @HOST@\r\n@REST@\r\n\r\n",
    b"GET /v1/models HTTP/1.1 \r\nHost: @HOST@\r\n@REST@\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: @HOST@\r\n@REST@\r\n\n", b"GET /v1/models HTTP/1.1\r\n Host: @HOST@\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: @HOST@\r\n@REST@\r\nConnection: Content-Length\r\nContent-Length: 4\r\n\r\nabcd",
    b"GET /v1/models HTTP/1.1\r\nHost: @HOST@\r\n@REST@\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: @HOST@\r\n@REST@\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"POST /v1/models HTTP/1.1\r\nHost: @HOST@\r\n@REST@\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    b"POST /v1/models HTTP/1.1\r\nHost: @HOST@\r\n@REST@\r\nExpect: 200-ok\r\nContent-Length: 4\r\n\r\nabcd",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET http://@HOST@/v1/models HTTP/1.1\r\nHost: @HOST@\r\n@REST@\r\n\r\n",
]  # fmt: skip


def variants(mark: str, host: bytes, authorization: bytes) -> dict[str, bytes]:
    """Every request, by the name of the one that is hidden in it: that one's agent, for logs show no strange path."""
    made: dict[str, bytes] = {}
    known = b"Authorization: " + authorization

    def name() -> str:
        return f"smuggled-{mark}-{len(made)}x"

    def hidden() -> bytes:
        return CRLF.join(
            [b"GET /v1/models HTTP/1.1", b"Host: " + host, known, b"User-Agent: " + name().encode(), b"", b""]
        )

    def add(line: bytes, fields: list[bytes], body: bytes) -> None:
        first = [line + b" HTTP/1.1", b"Host: " + host, known, b"Content-Type: application/json", *fields]
        made[name()] = CRLF.join(first) + CRLF + CRLF + body

    post = b"POST /v1/images/generations"
    for coding in CODINGS:
        after = b"0\r\n\r\n" + hidden()
        add(post, [b"Content-Length: %d" % len(after), coding], after)
        after = b"0\r\n\r\n" + hidden()
        add(post, [coding, b"Content-Length: %d" % len(after)], after)
        within = b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden()), hidden())
        add(post, [b"Content-Length: %d" % within.index(b"GET"), coding], within)
        add(post, [coding], b"0\r\n\r\n" + hidden())
    for length in LENGTHS:
        add(post, [length % len(hidden())], hidden())
    for chunk in CHUNKS:
        add(post, [CHUNKED], chunk + hidden())
    for method, path in product(METHODS, PATHS):
        add(method + b" " + path, [b"Content-Length: 0"], hidden())
        add(method + b" " + path, [b"Content-Length: %d" % len(hidden())], hidden())
    for head in HEADS:
        made[name()] = head.replace(b"@HOST@", host).replace(b"@REST@", known) + hidden()
    return made


def send(edge: Edge, data: bytes) -> None:
    """Send one, read what comes, then ask for something harmless on the same connection."""
    with edge.connect("basic") as raw, contextlib.suppress(OSError, ssl.SSLError):
        raw.settimeout(SILENCE_SECONDS)
        raw.sendall(data)
        raw.recv(65536)
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n" % edge.hosts["basic"].encode())
        while raw.recv(65536):
            pass
