"""The isolation probe against real sockets: both halves, and a network that is cut in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace

import pytest

from cluster.ports import free_port
from zimage_operator import rounds, verify
from zimage_operator.cache import Cache
from zimage_operator.names import labels
from zimage_operator.observed import PodFacts, Posture, Problem, Report
from zimage_operator.settings import Edge
from zimage_operator.verify import Verifier, isolated, probe, settled

POD = PodFacts("a", "p", "u", "studio", "r", "127.0.0.1", "Running", True, False, "", "", "", "", None)
UNREADY = PodFacts("a", "p", "u", "studio", "r", "127.0.0.1", "Running", False, False, "", "", "", "", None)


@asynccontextmanager
async def listening(count: int) -> AsyncIterator[list[int]]:
    """`count` ports of loopback that take connections."""
    servers = [await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) for _ in range(count)]
    yield [server.sockets[0].getsockname()[1] for server in servers]
    for server in servers:
        server.close()


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Has the probe look at other ports than the worker's own."""
    monkeypatch.setattr(verify, "CONFIRM_SECONDS", 0.01)

    def use(http: int, management: int) -> None:
        monkeypatch.setattr(verify, "HTTP_PORT", http)
        monkeypatch.setattr(verify, "MANAGEMENT_PORT", management)

    return use


async def test_blocked_takes_both_halves(ports: Callable[[int, int], None]) -> None:
    async with listening(2) as (http, management):
        ports(free_port(), management)
        assert await isolated(POD) == "blocked"
        ports(http, management)
        assert await isolated(POD) == "open"
        # The open port is what counts, whatever the other one does.
        ports(http, free_port())
        assert await isolated(POD) == "open"
    ports(free_port(), free_port())
    assert await isolated(POD) == "unreachable"


async def test_a_network_that_is_cut_in_between_is_no_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False, False])

    async def connects(_: str, __: int) -> bool:
        return next(answers)

    monkeypatch.setattr(verify, "connects", connects)
    assert await isolated(POD) == "unreachable"


async def test_a_port_that_closes_while_it_is_confirmed_was_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine needs a moment after a change of policy."""
    answers = iter([True, True, True, True, False, True])

    async def connects(_: str, __: int) -> bool:
        return next(answers)

    monkeypatch.setattr(verify, "connects", connects)
    monkeypatch.setattr(verify, "CONFIRM_SECONDS", 0)
    assert await isolated(POD) == "blocked"


LOADING = Posture("Basic", 1, (), False, (), None, (), True, (), "load")


@pytest.mark.parametrize(("isolation", "rests"), [("blocked", True), ("untested", False), ("open", False)])
def test_only_a_worker_that_serves_behind_its_wall_is_left_in_peace(isolation: str, rests: bool) -> None:
    """One that loads says nothing when it fails: it has to be asked, or nobody hears of it before the next round."""
    assert settled(Report(isolation, LOADING)) is rests
    assert not settled(Report(isolation, replace(LOADING, model_problems=(Problem("ModelLoadFailed", "m"),))))


async def test_a_pod_that_is_not_ready_is_not_tested(ports: Callable[[int, int], None]) -> None:
    ports(free_port(), free_port())
    report = await probe(UNREADY)
    assert report.isolation == "untested"
    assert report.posture is None
    assert report.problem


async def test_what_answers_on_the_management_port_need_not_be_a_worker(ports: Callable[[int, int], None]) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    with closing(server):
        ports(free_port(), server.sockets[0].getsockname()[1])
        report = await probe(UNREADY)
    assert report.posture is None
    assert report.problem == "ValueError"


def worker(**status: str) -> dict[str, object]:
    """A worker's pod as the API server shows it."""
    owner = {"kind": "ReplicaSet", "name": "studio-x", "uid": "r", "controller": True}
    marked = labels("studio") | {"pod-template-hash": "x"}
    head = {"namespace": "a", "name": "p", "uid": "u", "resourceVersion": "1", "labels": marked}
    ready = [{"type": "Ready", "status": "True"}]
    found = {"podIP": "127.0.0.1", "phase": "Running", "conditions": ready, **status}
    return {"metadata": {**head, "ownerReferences": [owner]}, "spec": {}, "status": found}


async def test_whatever_changes_about_a_pod_asks_for_new_looks(
    ports: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policies that select it, its credentials; and nothing where nothing has changed."""
    monkeypatch.setattr(rounds, "AFTERSHOCK_SECONDS", ())
    monkeypatch.setattr(rounds, "RETRY_SECONDS", 3600.0)
    cache, key, looks = Cache(), ("a", "studio"), asyncio.Queue[str]()
    cache.observe("Pod", worker())
    verifier = Verifier(cache, 3600, Edge(), lambda _: None)
    # What it finds is told once for each look.
    monkeypatch.setattr(verifier, "told", lambda _, report, __: looks.put_nowait(report.isolation))

    async def looked() -> str:
        return await asyncio.wait_for(looks.get(), 60)

    async with listening(1) as (management,):
        ports(free_port(), management)
        verifier.follow(key, "one policy", "", "")
        assert await looked() == "blocked"
        for changed in (("another policy", ""), ("another policy", "another file")):
            policies, htpasswd = changed
            verifier.follow(key, policies, "", "", htpasswd)
            assert await looked() == "blocked"
            verifier.follow(key, policies, "", "", htpasswd)
            await asyncio.sleep(0.1)
            assert looks.empty()
    await verifier.close()


async def test_whose_pod_is_gone_is_not_looked_at_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, key = Cache(), ("a", "studio")
    cache.observe("Pod", worker())
    verifier = Verifier(cache, 3600, Edge(), lambda _: None)
    verifier.follow(key, "", "", "")
    assert set(verifier.pods.targets) == {"u"}
    cache.observe("Pod", worker(), deleted=True)
    verifier.follow(key, "", "", "")
    assert verifier.pods.targets == {}
    # With no interval nothing is looked at, wherever that is.
    off = Verifier(cache, 0, Edge(True), lambda _: None)
    cache.observe("Pod", {**worker(), "metadata": {**worker()["metadata"], "resourceVersion": "9"}})  # type: ignore[dict-item]
    off.follow(key, "", "img.example.org", "")
    assert (off.pods.targets, off.edges.targets) == ({}, {})
    await verifier.close()
