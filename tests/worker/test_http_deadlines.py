"""Slow clients against the real server class with short deadlines: what may take long, and what may not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from raw_http import connect, read_answer, wait_closed
from zimage_worker.connections import Connections
from zimage_worker.deadlines import Deadlines
from zimage_worker.logs import AccessLog
from zimage_worker.metrics import Metrics
from zimage_worker.protocol import Edge
from zimage_worker.server import Server, listening

LARGE_BYTES = 13_000_000
SHORT = Deadlines(header=1.0, idle=3.0, body=1.0, body_rate=1000.0, rest=1.0, read=1.0, read_rate=20_000.0)
NEVER_SECONDS = 40.0
HOST = b"Host: localhost\r\n"


class Lines(AccessLog):
    """Keeps what the real one writes."""

    def __init__(self) -> None:
        self.statuses: list[int] = []

    def write(self, *fields) -> None:
        self.statuses.append(fields[3])


class Running:
    """The server in a thread of its own."""

    def __init__(self, most: int = 100, deadlines: Deadlines = SHORT) -> None:
        self.metrics, self.lines = Metrics(), Lines()
        self.edge = Edge("api", most, self.metrics, self.lines, deadlines)
        self.socket = listening("127.0.0.1", 0)
        self.port = int(self.socket.getsockname()[1])
        self.server = Server(self.app, self.edge)
        self.release = threading.Event()
        self.socket.listen(100)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self.socket])))

    async def app(self, scope, receive, send) -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            more = message["more_body"]
        while scope["path"] == "/busy" and not self.release.is_set():
            await asyncio.sleep(0.01)
        body = b"x" * (LARGE_BYTES if scope["path"] == "/large" else 2)
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"port": "api", **labels}) or 0.0


@contextlib.contextmanager
def running(**options) -> Iterator[Running]:
    made = Running(**options)
    made.thread.start()
    try:
        yield made
    finally:
        made.release.set()
        made.server.should_exit = True
        made.thread.join(30)


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running() as made:
        yield made


def narrow(port: int) -> socket.socket:
    """A client whose kernel takes little on its behalf."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    raw.settimeout(NEVER_SECONDS)
    raw.connect(("127.0.0.1", port))
    return raw


def get(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n"


def test_a_steady_slow_reader_gets_everything(served) -> None:
    """It takes several windows; the fixed end of before would have cut it off after the first."""
    began, got = time.monotonic(), 0
    with narrow(served.port) as raw:
        raw.sendall(get(b"/large").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        while part := raw.recv(65536):
            got += len(part)
            # Some 3 MB a second at most.
            time.sleep(len(part) / 3_000_000)
    assert got > LARGE_BYTES
    assert time.monotonic() - began > 3 * SHORT.read


@pytest.mark.parametrize("drop_bytes", [0, 200], ids=["nothing", "a drop now and then"])
def test_who_reads_too_little_is_cut_off(served, drop_bytes: int) -> None:
    def cut() -> float:
        return served.value("zimage_connections_cut_total", awaited="read")

    before, until = cut(), time.monotonic() + NEVER_SECONDS
    with narrow(served.port) as raw:
        raw.sendall(get(b"/large"))
        while cut() == before:
            assert time.monotonic() < until
            time.sleep(0.1)
            if drop_bytes:
                assert raw.recv(drop_bytes)
        # What the kernels held is still there, and then nothing.
        assert wait_closed(raw, NEVER_SECONDS)


@pytest.mark.parametrize(
    "begin", [b"", b"GET / HTTP/1.1\r\nX-A: ", b"POST / HTTP/1.1\r\nContent-Length: 9\r\nHost: a\r\n\r\n"]
)
def test_silence_is_cut_off_wherever_it_begins(served, begin: bytes) -> None:
    with connect(served.port) as raw, raw.makefile("rb") as stream:
        raw.sendall(begin)
        raw.settimeout(NEVER_SECONDS)
        answer = read_answer(stream)
        if not begin:
            # Browsers open connections in advance: a word there would be read as the answer to their next request.
            assert answer is None
            return
        assert answer
        assert (answer.status, answer.error()["code"]) == (408, "client_too_slow")
        assert stream.read() == b""
    assert 408 in served.lines.statuses or b"POST" in begin


@pytest.mark.parametrize(
    "begin", [b"GET / HTTP/1.1\r\nX-A: ", b"POST / HTTP/1.1\r\nContent-Length: 99999\r\nHost: a\r\n\r\n"]
)
def test_bytes_do_not_move_a_deadline(served, begin: bytes) -> None:
    with connect(served.port) as raw:
        raw.sendall(begin)
        until = time.monotonic() + NEVER_SECONDS
        with contextlib.suppress(ConnectionError):
            while True:
                assert time.monotonic() < until
                raw.sendall(b"a")
                raw.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    if not raw.recv(1000):
                        break


def test_a_long_upload_above_the_rate_is_served(served) -> None:
    with connect(served.port) as raw, raw.makefile("rb") as stream:
        raw.sendall(b"POST / HTTP/1.1\r\nContent-Length: 40000\r\n" + HOST + b"\r\n")
        for _ in range(40):
            raw.sendall(b"x" * 1000)
            time.sleep(0.1)
        answer = read_answer(stream)
    assert answer
    assert answer.status == 200


def test_a_kept_connection_may_pause_for_longer_than_a_header(served) -> None:
    with connect(served.port) as raw, raw.makefile("rb") as stream:
        for _ in range(2):
            raw.sendall(get(b"/"))
            answer = read_answer(stream)
            assert answer
            assert answer.status == 200
            time.sleep(SHORT.header + 0.7)
        assert wait_closed(raw, NEVER_SECONDS)


def test_who_lets_us_wait_for_longest_makes_room() -> None:
    with running(most=20, deadlines=replace(SHORT, header=60.0, idle=60.0)) as made:
        silent = [connect(made.port) for _ in range(60)]
        for _ in range(5):
            with connect(made.port) as raw, raw.makefile("rb") as stream:
                raw.sendall(get(b"/"))
                answer = read_answer(stream)
                assert answer
                assert answer.status == 200
        assert wait_closed(silent[0], NEVER_SECONDS)
        assert not wait_closed(silent[-1], 0.2)
        assert made.value("zimage_connections_open") <= 20
        assert made.value("zimage_connections_evicted_total") >= 40
        for raw in silent:
            raw.close()


def test_where_every_connection_works_a_newcomer_is_told_so() -> None:
    with running(most=3) as made:
        busy = [connect(made.port) for _ in range(3)]
        for raw in busy:
            raw.sendall(get(b"/busy"))
        until = time.monotonic() + NEVER_SECONDS
        while made.edge.connections.open < 3 or made.edge.connections.victim():
            assert time.monotonic() < until
            time.sleep(0.01)
        with connect(made.port) as raw, raw.makefile("rb") as stream:
            answer = read_answer(stream)
        assert answer
        assert (answer.status, answer.error()["code"]) == (503, "too_many_connections")
        assert answer.headers["retry-after"] == "1"
        made.release.set()
        for raw in busy:
            with raw, raw.makefile("rb") as stream:
                answer = read_answer(stream)
                assert answer
                assert answer.status == 200


def test_the_address_with_the_most_silent_connections_pays() -> None:
    table: Connections[str] = Connections(5)
    for since, (key, address) in enumerate([("honest", "a"), ("x1", "b"), ("x2", "b"), ("y", "c"), ("x3", "b")]):
        table.waits(key, address, float(since))
    assert table.full
    assert table.victim() == "x1"
    table.works("x1", "b")
    assert table.victim() == "x2"
    table.waits("x1", "b", 9.0)
    table.gone("x2")
    assert table.victim() == "x3"
    table.gone("x3")
    table.gone("x3")
    # One each: the longest wait.
    assert table.victim() == "honest"
    for key, address in (("honest", "a"), ("x1", "b"), ("y", "c")):
        table.works(key, address)
    assert table.victim() is None
    assert table.open == 3
