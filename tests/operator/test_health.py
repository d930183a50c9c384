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
from zimage_operator.api import Api
from zimage_operator.controller import Controller
from zimage_operator.health import SILENT_SECONDS, STUCK_SECONDS, Health
from zimage_operator.kinds import SERVICES
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
    health.heard("Service")
    assert health.problems(1e9) == []


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
    await controller.sync()
    streams = asyncio.create_task(watch(controller, settings, asyncio.Event(), stop))
    try:
        yield controller
    finally:
        stop.set()
        await streams
        await controller.close()
        await api.close()


@pytest.mark.control_plane
async def test_a_stream_that_died_in_silence_is_found_by_the_next_list(
    installed: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kopf goes on without it (nolar/kopf#1276): the operator would see no new resource ever again."""

    def streams() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if task.get_name().startswith(f"watcher for {SERVICES.plural}")]

    async with watching(installed, monkeypatch) as controller:

        def later() -> list[str]:
            return controller.health.problems(asyncio.get_running_loop().time() + SILENT_SECONDS + 1)

        await until(streams)
        # While it lives, a list knows nothing that it has not told, or will tell in a moment.
        installed.apply(asleep("before", namespace))
        await controller.relist(SERVICES)
        await until(lambda: (namespace, "before") in controller.cache.services and later() == [])
        dead = streams()
        for task in dead:
            task.cancel()
        await asyncio.wait(dead)
        installed.apply(asleep("after", namespace))
        await asyncio.sleep(1)
        assert (namespace, "after") not in controller.cache.services
        assert later() == []
        await controller.relist(SERVICES)
        assert later() == ["the watch of ZImageService is dead"]


def asleep(name: str, namespace: str) -> dict[str, Any]:
    """A resource without pods."""
    return smallest(name, namespace, replicas=0, ingress=None)
