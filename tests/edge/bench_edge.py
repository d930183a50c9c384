"""`make bench-edge`: what each edge costs an honest client, and what it refuses while one is served.

Direct calls and calls through the edge take turns, so that what else runs on the machine troubles both. Named for
the command line alone: `make test` does not collect it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest

from support import ROOT
from worker.conftest import Worker, eventually

from .client import ALICE, Edge, basic
from .conftest import OF_NGINX, OF_TRAEFIK
from .town import Town

pytestmark = pytest.mark.timeout(900, func_only=True)
CALLS, FLOOD_SECONDS = 300, 5
# The honest client's pace: where 60 a minute are allowed, by the worker for one user over all edges, a slow one.
PAUSE_SECONDS = {"basic": 0.1, "limited": 0.6}
BOB = ("bob", "canary-second-4d1c")


@pytest.fixture(params=[*OF_TRAEFIK, *OF_NGINX])
def edge(request: pytest.FixtureRequest) -> Edge:
    return request.getfixturevalue("nginxes" if request.param in OF_NGINX else "traefiks")[request.param]


def test_figures(edge: Edge, town: Town, workers: dict[str, Worker], capsys: pytest.CaptureFixture[str]) -> None:
    """One line of the table in docs/benchmarks.md."""
    direct, through = latencies(edge, town)
    strangers = flooded(edge, "basic", "401", ALICE, "")
    # Behind an edge without limits the worker counts, and only whom it knows; its own user's limit is no stranger's.
    plain = edge.name == "plain"
    if plain:
        also_known(workers["limited"], BOB)
    crowd = flooded(edge, "limited", "429", BOB if plain else ALICE, basic(ALICE).decode() if plain else "")
    extra = [percentile(through, part) - percentile(direct, part) for part in (50, 99)]
    with capsys.disabled():
        added = f"{extra[0] * 1000:+.1f} ms, {extra[1] * 1000:+.1f} ms"
        alone = f"{percentile(direct, 50) * 1000:.1f}, {percentile(direct, 99) * 1000:.1f}"
        print(f"\n| {edge.name} | {added} ({alone}) | {strangers} | {crowd} | load {os.getloadavg()[0]:.0f} |")


def latencies(edge: Edge, town: Town) -> tuple[list[float], list[float]]:
    """Seconds of kept connections, straight to the worker and through the edge, in turns."""
    straight, about = f"http://{town.address('basic')}:7860/v1/models", edge.about("basic")
    direct, through = list[float](), list[float]()
    with httpx.Client(timeout=60) as near, edge.client() as far:
        for number in range(CALLS + 20):
            first = timed(near, straight, {"headers": about["headers"]})
            second = timed(far, edge.url("/v1/models"), about)
            if number >= 20:
                direct.append(first)
                through.append(second)
    return direct, through


def timed(client: httpx.Client, url: str, about: dict[str, Any]) -> float:
    began = time.perf_counter()
    answer = client.get(url, auth=ALICE, **about)
    taken = time.perf_counter() - began
    assert answer.status_code == 200, answer.text
    return taken


def percentile(values: list[float], part: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[part - 1]


def flooded(edge: Edge, service: str, status: str, honest: tuple[str, str], authorization: str) -> str:
    """Refusals a second from one address, and how many of an honest client's requests from another were served."""
    command = [
        sys.executable, str(ROOT / "tests/edge/flood.py"), edge.address, str(edge.https_port), edge.hosts[service],
        str(edge.ca), str(next(edge.sources)), str(FLOOD_SECONDS), *([authorization] if authorization else []),
    ]  # fmt: skip
    flood: subprocess.Popen[str] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    seen = list[int]()
    with edge.client() as client:
        while flood.poll() is None:
            seen.append(client.get(edge.url("/v1/models"), auth=honest, **edge.about(service)).status_code)
            time.sleep(PAUSE_SECONDS[service])
    assert flood.returncode == 0
    told = json.loads(flood.communicate()[0])
    assert told.get(status), told
    return f"{told[status] / told['seconds']:.0f}/s, honest {seen.count(200)} of {len(seen)}"


def also_known(worker: Worker, pair: tuple[str, str]) -> None:
    """One more user, as its Secret would bring it."""
    path = Path(worker.htpasswd)
    line = f"{pair[0]}:{bcrypt.hashpw(pair[1].encode(), bcrypt.gensalt(4)).decode()}\n"
    path.write_text(path.read_text() + line)
    host = {"Host": "limited.plain.example.org"}
    url = f"http://{worker.environ['ZIMAGE_HOST']}:7860/v1/models"
    eventually(lambda: httpx.get(url, auth=pair, headers=host).status_code == 200, 90)
