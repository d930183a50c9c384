"""The transport against a real server: what is tried again, what is not, and that one answer can silence everybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio import client

from zimage_operator import api as module
from zimage_operator.api import BURST, PAGE, REQUESTS_PER_SECOND, TRIES, Answer, Api, Bucket, Denied
from zimage_operator.errors import ClusterUnavailable, Conflict
from zimage_operator.kinds import BY_NAME

PATH = "/api/v1/namespaces/team-a/services/studio"
# In place of a status: the connection is broken off.
BROKEN = 0


class Door:
    """Answers with what it is given, one after the other; then with 200."""

    def __init__(self, *answers: int, **body: Any) -> None:
        self.answers, self.body = list(answers), body
        # When each request came, by the loop's clock, and what it asked.
        self.asked: list[tuple[float, str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((asyncio.get_running_loop().time(), request.method, request.path_qs))
        code = self.answers.pop(0) if self.answers else 200
        if code == BROKEN:
            assert request.transport
            request.transport.abort()
        headers = {"Retry-After": "1"} if code == 429 else {}
        return web.json_response({"message": f"answer {code}", **self.body}, status=code or 200, headers=headers)


@asynccontextmanager
async def behind(door: Door) -> AsyncIterator[Api]:
    """A client of a server on loopback."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", door.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made = Api(client.Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    made.session = aiohttp.ClientSession(response_class=Answer)
    try:
        yield made
    finally:
        await made.close()
        await runner.cleanup()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between two tries are no part of what is asked here."""
    monkeypatch.setattr(module.random, "uniform", lambda *_: 0.0)


@pytest.mark.parametrize("code", [BROKEN, 429, 500, 503, 504])
@pytest.mark.parametrize("verb", ["GET", "PATCH"])
async def test_what_may_pass_is_tried_again(verb: str, code: int) -> None:
    door = Door(code)
    async with behind(door) as api:
        assert (await api.request(verb, PATH, kind="Service"))["message"] == "answer 200"
        # By it /healthz knows that a stream's silence may be the server's. A broken GET is repeated by aiohttp itself.
        assert api.failed_at > 0 or (verb, code) == ("GET", BROKEN)
    assert len(door.asked) == 2


async def test_no_useful_answer_is_given_up_after_some_tries() -> None:
    """The caller comes back with its own back-off: nobody waits here for ever."""
    door = Door(*[503] * 20)
    async with behind(door) as api:
        with pytest.raises(ClusterUnavailable, match=r"GET .*: 503 answer 503"):
            await api.request("GET", PATH, kind="Service")
    assert len(door.asked) == TRIES


@pytest.mark.parametrize(
    ("code", "reason", "meaning"),
    [
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", Denied),
        (403, "Forbidden", Denied),
        (404, "NotFound", Denied),
        (422, "Invalid", Denied),
    ],
)
async def test_an_answer_is_not_asked_for_twice(code: int, reason: str, meaning: type[Exception]) -> None:
    door = Door(code, reason=reason)
    async with behind(door) as api:
        with pytest.raises(meaning):
            await api.request("PATCH", PATH, kind="Service")
    assert len(door.asked) == 1


async def test_who_is_told_to_wait_waits_and_so_does_everybody_else() -> None:
    door = Door(429)
    async with behind(door) as api:
        first = asyncio.create_task(api.request("GET", PATH, kind="Service"))
        while not door.asked:
            await asyncio.sleep(0.01)
        told = door.asked[0][0]
        # The answer is on its way; what is asked after it has come waits.
        while api.bucket.tokens > 0 and not first.done():
            await asyncio.sleep(0.01)
        await asyncio.gather(first, *(api.request("GET", f"{PATH}-{n}", kind="Service") for n in range(3)))
    assert len(door.asked) == 5
    assert min(at for at, _, _ in door.asked[1:]) - told > 0.9


async def test_one_bucket_is_everybodys_and_lets_no_more_through_than_its_rate() -> None:
    bucket, loop = Bucket(rate=100, burst=5), asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(bucket.take() for _ in range(25)))
    # The first five at once, then a hundred a second.
    assert loop.time() - began > 0.15
    # A fault of ours is what it is for: no server took as many.
    assert (REQUESTS_PER_SECOND, BURST) == (1000, 1000)


async def test_every_request_takes_from_the_bucket() -> None:
    door = Door(503)
    async with behind(door) as api:
        full = api.bucket.tokens
        api.bucket.rate = 0.0001
        await api.request("GET", PATH, kind="Service")
        # The second try too.
        assert full - api.bucket.tokens == pytest.approx(2, abs=0.1)


async def test_nothing_but_the_lease_is_written_without_the_lead() -> None:
    def shut() -> None:
        raise ClusterUnavailable("somebody else leads")

    door = Door()
    async with behind(door) as api:
        api.fence = shut
        for verb in ("POST", "PUT", "PATCH", "DELETE"):
            with pytest.raises(ClusterUnavailable, match="somebody else leads"):
                await api.request(verb, PATH, kind="Service")
        assert door.asked == []
        await api.request("GET", PATH, kind="Service")
        await api.request("PUT", PATH, kind="Lease")
    assert [verb for _, verb, _ in door.asked] == ["GET", "PUT"]


async def test_the_lead_is_asked_for_again_before_each_try() -> None:
    """A try may come half a minute after the one before it."""
    door, leads = Door(503), [True]

    def check() -> None:
        if not leads.pop():
            raise ClusterUnavailable("no longer")
        leads.append(False)

    async with behind(door) as api:
        api.fence = check
        with pytest.raises(ClusterUnavailable, match="no longer"):
            await api.request("PATCH", PATH, kind="Service")
    assert len(door.asked) == 1


async def test_a_list_comes_in_pages_and_is_filtered_on_the_server() -> None:
    """With a `continue` in the answer the next page is asked for, and every item says what it is."""
    pages = [{"resourceVersion": "7", "continue": "more"}, {"resourceVersion": "7"}]
    door, kind = Door(), BY_NAME["ConfigMap"]

    async def page(request: web.Request) -> web.Response:
        door.asked.append((0.0, request.method, request.path_qs))
        return web.json_response({"metadata": pages.pop(0), "items": [{"metadata": {"name": "a"}}]})

    door.answer = page  # type: ignore[method-assign]
    async with behind(door) as api:
        found = [(items[0]["kind"], version) async for items, version in api.pages(kind, "team-a")]
    assert found == [("ConfigMap", 7)] * 2
    first, second = (dict(parse_qsl(urlsplit(path).query)) for _, _, path in door.asked)
    selector = "app.kubernetes.io/managed-by=zimage-operator"
    assert first == {"limit": str(PAGE), "labelSelector": selector}
    assert second == {**first, "continue": "more"}
