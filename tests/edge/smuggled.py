"""Requests that two readers could end at two places, generated: each hides another in what one takes for its body."""

from __future__ import annotations

import contextlib
import itertools
import ssl
from collections.abc import Iterator

from .client import Edge

# Nobody waits longer for an answer that may never come: a reader that still waits for a body is no desync.
SILENCE_SECONDS = 0.5
CHUNKED = b"Transfer-Encoding: chunked"
# Headers that one reader may take for chunked, and another not.
ENCODINGS = [
    CHUNKED,
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: chunked ",
    b"Transfer-Encoding:chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"transfer-encoding: CHUNKED",
    b"Transfer-Encoding: \x0bchunked",
    b" Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"Transfer-Encoding\r\n : chunked",
    b"Transfer-Encoding: 'chunked'",
    b"Transfer_Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"TRANSFER-ENCODING: chunked;a=b",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: chunk\xc5\xbfed",
    b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
]
# Lengths that one reader may read otherwise: `%d` is the one of the whole rest.
LENGTHS = [
    b"Content-Length: %d",
    b"Content-Length: 0\r\nContent-Length: %d",
    b"Content-Length: %d\r\nContent-Length: 0",
    b"Content-Length: 0, %d",
    b"Content-Length: +%d",
    b"Content-Length: 0%d",
    b"Content-Length : %d",
    b"Content-Length: %d ",
    b" Content-Length: %d",
    b"Content_Length: %d",
    b"Content-Length:\x0b%d",
    b"Content-Length: %d\x00",
    b"X: y\nContent-Length: %d",
    b"Content-Length: %d.0",
    b"Content-Length: 0x%x",
]
# Chunked bodies that one reader may end earlier: the smuggled request takes the place of `@`.
BODIES = [
    b"0\r\n\r\n@",
    b"1\r\nx\r\n0\r\n\r\n@",
    b"0;a=b\r\n\r\n@",
    b"0;\n\r\n@",
    b"0\n\n@",
    b"1\nx\n0\n\n@",
    b"00\r\n\r\n@",
    b"0 \r\n\r\n@",
    b"0x0\r\n\r\n@",
    b"-0\r\n\r\n@",
    b"1;\nx\r\n0\r\n\r\n@",
    b'1;a="\r\n\r\nx\r\n0\r\n\r\n@',
    b"2\r\nxx0\r\n\r\n@",
    b"0\r\nX: y\r\n\r\n@",
    b"0\r\n@",
    b"ffffffffffffffff0\r\n\r\n@",
]
METHODS = [b"POST", b"GET"]


def heads() -> Iterator[tuple[bytes, bytes]]:
    """Headers and body: TE.TE, TE.CL and CL.TE, CL.0 and their relatives."""
    yield from ((encoding, BODIES[0]) for encoding in ENCODINGS)
    for encoding, length in itertools.product(ENCODINGS[:6], LENGTHS[:8]):
        yield b"\r\n".join((length, encoding)), BODIES[0]
        yield b"\r\n".join((encoding, length)), BODIES[0]
    yield from ((CHUNKED, body) for body in BODIES)
    yield from ((length, b"@") for length in LENGTHS)


def variants(mark: str, host: bytes, authorization: bytes) -> dict[str, bytes]:
    """Every request, by the name of the one that is hidden in it."""
    found = {}
    for number, (method, (fields, body)) in enumerate(itertools.product(METHODS, heads())):
        name = f"smuggled-{mark}-{number}x"
        # Known by its agent: logs show no path that is not the worker's own.
        hidden = b"GET /v1/models HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\n\r\n" % (host, name.encode())
        rest = body.replace(b"@", hidden)
        lengths = fields % len(rest) if b"%" in fields else fields
        head = b"%s /v1/models HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n" % (method, host, authorization)
        found[name] = head + lengths + b"\r\n\r\n" + rest
    return found


def send(edge: Edge, data: bytes) -> None:
    """Send one, read what comes, then ask for something harmless on the same connection."""
    with edge.connect("basic") as raw, contextlib.suppress(OSError, ssl.SSLError):
        raw.settimeout(SILENCE_SECONDS)
        raw.sendall(data)
        raw.recv(65536)
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n" % edge.hosts["basic"].encode())
        while raw.recv(65536):
            pass
