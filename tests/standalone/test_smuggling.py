"""nginx and the worker cut every request at the same place."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge.client import ALICE, basic
from standalone.lab import Lab, wait
from standalone.smuggling import variants

# Setting up loads torch twice, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(300, func_only=True)

# Nothing is waited for but silence: who has not answered until then waits for more from us.
SILENCE_SECONDS = 0.5
# Every request that either of them took for one leaves a line with its agent.
MARK = re.compile(r"(?:hidden|outer)-\d+(?=\")")


def test_nothing_hidden_reaches_the_worker_unless_nginx_saw_it_too(lab: Lab) -> None:
    edge = lab.edge()
    host = edge.hosts["basic"].encode()
    cases = variants(host, b"Authorization: " + basic(ALICE))
    assert len(cases) >= 200
    last = b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"

    def send(data: bytes) -> bytes:
        told = b""
        with lab.client.inside(), contextlib.suppress(OSError), edge.connect("basic") as raw:
            raw.sendall(data + last)
            raw.settimeout(SILENCE_SECONDS)
            with contextlib.suppress(TimeoutError, ssl.SSLError):
                while part := raw.recv(65536):
                    told += part
        return told

    def honest(number: int) -> None:
        """Somebody else gets the answer to his own question, by a connection that others have used before him."""
        name = f"honest-{number}"
        with lab.client.inside():
            answer = edge.ask("basic", auth=ALICE, headers={"X-Request-Id": name})
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, name)

    with ThreadPoolExecutor(16) as pool:
        answers = dict(zip(cases, pool.map(send, cases.values()), strict=True))
        list(pool.map(honest, range(40)))
    assert sum(told.startswith(b"HTTP/1.1 ") for told in answers.values()) >= 200
    # nginx writes its line last, and for who has gone only once it has noticed.
    wait(lambda: not unseen(lab), f"nginx saw what the worker saw; of {unseen(lab)} it did not")
    assert len(MARK.findall(lab.worker_log())) > 50
    assert "Traceback" not in lab.worker_log()
    assert '" 500 ' not in lab.worker_log()


def unseen(lab: Lab) -> Counter[str]:
    """What the worker took for a request more often than nginx did."""
    return Counter(MARK.findall(lab.worker_log())) - Counter(MARK.findall(lab.access_log()))


def test_there_are_enough_of_them() -> None:
    cases = variants(b"a.example.org", b"Authorization: x")
    assert len(set(cases.values())) == len(cases) >= 200
    # Each hides exactly its own mark.
    assert all(data.count(f"hidden-{number}\r".encode()) == 1 for number, data in enumerate(cases.values()))
