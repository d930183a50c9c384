"""/healthz sees a worker that hangs and a stream that has died, and a restart of either is not asked for in vain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from kubernetes.aio.config import kube_config

from cluster.control_plane import ControlPlane
from cluster.ports import free_port
from support import smallest
from zimage_operator import streams as module
from zimage_operator.api import Api
from zimage_operator.controller import Controller
from zimage_operator.errors import ClusterUnavailable
from zimage_operator.health import SILENT_SECONDS, STUCK_SECONDS, Health
from zimage_operator.kinds import SERVICES, Kind
from zimage_operator.server import serve
from zimage_operator.settings import read
from zimage_operator.watch import watch

KEY = ("team-a", "studio")


def test_a_reconcile_that_hangs_is_named_and_one_that_ends_is_not() -> None:
    health = Health()
    health.begun(KEY, 100)
    assert health.problems(100 + STUCK_SECONDS - 1) == []
    assert health.problems(100 + STUCK_SECONDS + 1) == ["the reconcile of team-a/studio hangs"]
    health.ended(KEY)
    assert health.problems(1e9) == []


def test_a_list_that_knows_more_than_the_stream_is_forgiven_once_the_stream_speaks() -> None:
    health = Health()
    health.surprised("Service", 100)
    health.surprised("Service", 100 + SILENT_SECONDS)
    assert health.problems(100 + SILENT_SECONDS - 1) == []
    assert health.problems(100 + SILENT_SECONDS + 1) == ["the watch of Service is dead"]
    health.told("Service")
    assert health.problems(1e9) == []


def test_a_stream_without_any_sign_is_dead_unless_the_server_was_away() -> None:
    outage = [0.0]
    health = Health(failed_at=lambda: outage[0])
    health.heard("Service", 100)
    assert health.problems(100 + SILENT_SECONDS - 1) == []
    assert health.problems(100 + SILENT_SECONDS + 1) == ["the watch of Service is dead"]
    outage[0] = 200.0
    assert health.problems(100 + SILENT_SECONDS + 1) == []
    health.heard("Service", 1e6)
    assert health.problems(1e6) == []


def test_a_stream_that_ended_is_dead_at_once_and_one_of_a_kind_that_is_gone_is_not() -> None:
    health = Health()
    for name in ("Service", "Middleware"):
        health.heard(name, 100)
    health.stream_ended("Service")
    health.stream_gone("Middleware")
    assert health.problems(101) == ["the watch of Service is dead"]
    health.heard("Service", 102)
    assert health.problems(102 + SILENT_SECONDS - 1) == []
    assert health.problems(102 + SILENT_SECONDS + 1) == ["the watch of Service is dead"]


def test_what_others_find_is_said_too() -> None:
    assert Health(lambda now: [f"at {now}"]).problems(7) == ["at 7"]


async def test_the_answer_is_503_with_a_line_for_each_problem() -> None:
    health, port = Health(), free_port()
    server = await serve(port, asyncio.Event(), health)
    try:
        assert await ask(port, "healthz") == (200, "ok\n")
        assert (await ask(port, "readyz"))[0] == 503
        health.begun(KEY, asyncio.get_running_loop().time() - STUCK_SECONDS - 1)
        assert await ask(port, "healthz") == (503, "the reconcile of team-a/studio hangs\n")
    finally:
        await server.cleanup()


class Hanging(Controller):
    """A controller whose reconcile never ends."""

    def __init__(self) -> None:
        super().__init__(Api(None), read({"KUBECONFIG": "x"}), "test")
        self.reached = asyncio.Event()

    async def one(self, key: tuple[str, str]) -> None:
        self.reached.set()
        await asyncio.Event().wait()


async def test_a_worker_that_hangs_is_seen_by_the_controllers_own_health() -> None:
    controller = Hanging()
    controller.queue.add(KEY)
    worker = asyncio.create_task(controller.work())
    await asyncio.wait_for(controller.reached.wait(), 30)
    now = asyncio.get_running_loop().time()
    assert controller.health.problems(now) == []
    assert controller.health.problems(now + STUCK_SECONDS + 1) == ["the reconcile of team-a/studio hangs"]
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert controller.health.problems(now + STUCK_SECONDS + 1) == []


async def ask(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/{path}") as answer:
        return answer.status, await answer.text()


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.1)


@asynccontextmanager
async def watching(cluster: ControlPlane, patch: pytest.MonkeyPatch) -> AsyncIterator[Controller]:
    """The streams and the cache of an operator, in this process; nothing of it acts."""
    path = str(cluster.kubeconfig_for("zimage-system", "zimage-operator"))
    patch.setenv("KUBECONFIG", path)
    # The library reads the variable when it is imported.
    patch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", path)
    api, settings = await Api.connect(), read({"KUBECONFIG": path})
    controller, stop = Controller(api, settings, "test"), asyncio.Event()
    streams = asyncio.create_task(watch(controller, settings, asyncio.Event(), stop))
    try:
        await asyncio.wait_for(controller.streams.sync(), 60)
        yield controller
    finally:
        controller.streams.closing = True
        stop.set()
        await streams
        await controller.close()
        await api.close()


async def test_everything_is_listed_again_every_ten_to_fifteen_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The net under the watches; a list that fails is no reason to leave out the others, or the next time."""
    assert module.RESYNC_SECONDS == (600, 900)
    monkeypatch.setattr(module, "RESYNC_SECONDS", (0.01, 0.02))
    streams, listed = Controller(Api(None), read({"KUBECONFIG": "x"}), "test").streams, list[str]()

    async def relist(kind: Kind) -> None:
        listed.append(kind.name)
        if kind is SERVICES:
            raise ClusterUnavailable("503")

    monkeypatch.setattr(streams, "relist", relist)
    resync = asyncio.create_task(streams.resync())
    await until(lambda: len(listed) > 2 * len(streams.kinds))
    resync.cancel()
    await asyncio.gather(resync, return_exceptions=True)
    assert set(listed) == {kind.name for kind in streams.kinds}


@pytest.mark.control_plane
async def test_a_stream_that_ended_is_seen_at_once(
    installed: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kopf goes on without it (nolar/kopf#1276): the operator would see no new resource ever again."""

    def now() -> list[str]:
        return controller.health.problems(asyncio.get_running_loop().time())

    async with watching(installed, monkeypatch) as controller:
        installed.apply(asleep("before", namespace))
        await until(lambda: (namespace, "before") in controller.cache.services)
        assert now() == []
        dead = [one for one in asyncio.all_tasks() if one.get_name().startswith(f"watcher for {SERVICES.plural}")]
        assert dead
        for task in dead:
            task.cancel()
        await asyncio.wait(dead)
        await until(lambda: now() == ["the watch of ZImageService is dead"])
        # And what it does not tell, the next sweep does.
        installed.apply(asleep("after", namespace))
        await controller.streams.relist(SERVICES)
        assert (namespace, "after") in controller.cache.services


@pytest.mark.control_plane
async def test_what_a_stream_did_not_tell_is_found_by_its_next_list(
    installed: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that falls into a gap (410) is in no list: what the list lacks is gone."""
    async with watching(installed, monkeypatch) as controller:
        for name in ("stays", "goes"):
            installed.apply(asleep(name, namespace))
            await until(lambda name=name: (namespace, name) in controller.cache.services)
        kept = controller.cache.services[namespace, "goes"]
        installed.kubectl("-n", namespace, "delete", "zis", "goes")
        await until(lambda: (namespace, "goes") not in controller.cache.services)
        # As if that event had never come.
        controller.cache.services[namespace, "goes"] = kept
        answer = await controller.api.request("GET", SERVICES.path(), kind=SERVICES.name)
        for item in answer["items"]:
            controller.streams.event(SERVICES, "", {**item, "kind": SERVICES.name}, None)
        controller.streams.listed(SERVICES, "")
        assert (namespace, "goes") not in controller.cache.services
        assert (namespace, "stays") in controller.cache.services
        assert (namespace, "goes") in controller.queue.dirty


def asleep(name: str, namespace: str) -> dict[str, Any]:
    """A resource without pods."""
    return smallest(name, namespace, replicas=0, ingress=None)
