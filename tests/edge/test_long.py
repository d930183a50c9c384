"""A generation of a minute and a half, through every edge at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from worker.conftest import Worker

from .client import ALICE, Edge, eventually

pytestmark = pytest.mark.timeout(300, func_only=True)
# Of injected.SLOW_SECONDS: what the others wait of it is a little less.
LEAST_SECONDS = 85


def asked(edge: Edge, prompt: str) -> tuple[str, int, float]:
    """The edge, the status, and after how many seconds it came."""
    began = time.monotonic()
    with edge.client() as client:
        client.timeout = httpx.Timeout(280)
        order = {"prompt": prompt, "size": "64x64", "steps": 8}
        answer = client.post(edge.url("/v1/images/generations"), json=order, auth=ALICE, **edge.about("limited"))
    return edge.name, answer.status_code, time.monotonic() - began


def test_a_generation_of_ninety_seconds_comes_back_through_every_edge(
    traefiks: dict[str, Edge], nginxes: dict[str, Edge], workers: dict[str, Worker]
) -> None:
    """One is made that long, the others wait for it in the queue: no byte comes back meanwhile through any edge."""
    first, *others = [*traefiks.values(), *nginxes.values()]
    with ThreadPoolExecutor(len(others) + 1) as pool:
        answers = [pool.submit(asked, first, "slow fox")]
        eventually(lambda: workers["limited"].metric("zimage_requests_running") == 1, "it is being made")
        answers += [pool.submit(asked, one, "quick fox") for one in others]
        found = [each.result() for each in answers]
    assert {(name, status) for name, status, _ in found} == {(one.name, 200) for one in (first, *others)}
    assert min(seconds for *_, seconds in found) > LEAST_SECONDS
