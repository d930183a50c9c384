"""The glue to FastAPI: from a request to the caller, and the parts that the routes use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from .addresses import bucket, cross_site
from .admission import FairQueue, RateLimit, Uploads
from .auth import Caller
from .credentials import Gate
from .encoding import Encoder
from .engines.thread import EngineThread
from .errors import CrossSite, RateLimited
from .metrics import Metrics
from .settings import Settings
from .state import State

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What create_app is given; there are no globals."""

    settings: Settings
    state: State
    gate: Gate
    addresses: RateLimit
    users: RateLimit
    verifications: RateLimit
    queue: FairQueue
    uploads: Uploads
    engine: EngineThread
    encoder: Encoder
    metrics: Metrics


class ClientGone(Exception):
    """The client closed the connection: there is nobody to answer."""


def parts(request: Request) -> Parts:
    """The app's parts."""
    found: Parts = request.app.state.parts
    return found


def own_site(request: Request) -> None:
    """For what costs or gives something: a form is sent across sites, with Basic credentials, by itself.

    Raises:
        CrossSite: a browser says that it comes from another site.
    """
    headers = request.headers
    if cross_site(headers.get("sec-fetch-site"), headers.get("origin"), headers.get("host", "")):
        raise CrossSite("Only this service's own page may send this from a browser.")


async def known_caller(request: Request) -> Caller:
    """Authentication alone, for answers that cost nothing."""
    address: str = request.scope["state"]["address"]
    caller = await parts(request).gate.caller(request.headers.getlist("authorization"), address)
    # For the access log: only a name that was proved.
    request.scope["state"]["user"] = caller.user
    return caller


async def caller(request: Request) -> Caller:
    """Authentication, then the rates of the address and of the user.

    Raises:
        Unauthenticated, RateLimited: before anything of the body is looked at.
    """
    known, the = await known_caller(request), parts(request)
    limited(the.addresses, bucket(known.address), "address", the.metrics)
    if known.user:
        limited(the.users, known.user, "user", the.metrics)
    return known


def limited(limit: RateLimit, key: str, kind: str, metrics: Metrics) -> None:
    """Spend a token; count the refusal."""
    try:
        limit.take(key)
    except RateLimited:
        metrics.rate_limited.labels(kind).inc()
        raise


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Run `work` as long as the client is there; cancel it, and wait for its end, when it leaves.

    Raises:
        ClientGone: it left.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def left(request: Request) -> None:
    """Returns when the client has closed the connection; the body is read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


TheCaller = Annotated[Caller, Depends(caller)]
TheParts = Annotated[Parts, Depends(parts)]
