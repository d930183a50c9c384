"""What is added to kopf's streams: a kind that is not served yet ends none of them, and a CRD is looked at again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from kopf._cogs.clients import errors, watching
from kopf._cogs.structs.references import Resource

from zimage_operator import watch
from zimage_operator.api import Api
from zimage_operator.controller import Controller
from zimage_operator.kinds import BY_NAME, Kind
from zimage_operator.settings import read

MONITORS = BY_NAME["PodMonitor"]
CRD = {"type": "MODIFIED", "object": {"spec": {"group": "monitoring.coreos.com"}}}
OTHER = {"type": "MODIFIED", "object": {"spec": {"group": "example.org"}}}
FIRST = {"type": None, "object": {"spec": {"group": "monitoring.coreos.com"}}}


class Heard:
    """In place of Streams: what it is told."""

    kinds = (MONITORS,)

    def __init__(self) -> None:
        self.told: list[str] = []

    def listed(self, kind: Kind, place: str) -> None:
        self.told.append(f"listed {kind.name}")

    def missed(self, kind: Kind) -> None:
        self.told.append(f"missed {kind.name}")

    def ended(self, kind: Kind, place: str) -> None:
        self.told.append(f"ended {kind.name}")


async def stream(*events: Any) -> AsyncIterator[Any]:
    """The events, or an error among them; then silence, as in a real one."""
    for event in events:
        if isinstance(event, Exception):
            raise event
        yield event
    await asyncio.Event().wait()


def test_a_kind_that_is_listed_before_it_is_served_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on a busy API server: the 404 ended the orchestrator of kopf, and with it the process."""
    monkeypatch.setattr(watch, "UNSERVED_SECONDS", 0.0)
    missing = errors.APINotFoundError("404 page not found", status=404, headers={})
    tries = iter([(missing,), (missing,), (watching.Bookmark.LISTED,)])
    heard = Heard()
    tapped = watch.tapped(lambda **_: stream(*next(tries)), heard)  # type: ignore[arg-type]

    async def first() -> Any:
        events = tapped(resource=MONITORS, namespace=None)
        event = await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        return event

    assert asyncio.run(first()) is watching.Bookmark.LISTED
    assert heard.told == ["missed PodMonitor", "missed PodMonitor", "listed PodMonitor", "ended PodMonitor"]


def test_a_change_of_a_crd_of_ours_comes_again_later_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of APIs follows the CRDs by moments: kopf reads it once for each event."""
    monkeypatch.setattr(watch, "ECHO_SECONDS", (0.01, 0.02))
    events = (FIRST, watching.Bookmark.LISTED, OTHER, CRD)

    async def taken() -> list[Any]:
        echoed = watch.echoed(stream(*events), {MONITORS.group})
        found = [await anext(echoed) for _ in range(6)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(echoed), 0.1)
        return found

    assert asyncio.run(taken()) == [*events, CRD, CRD]


def test_what_ends_kopf_s_own_stream_is_not_swallowed() -> None:
    async def through() -> None:
        async for _ in watch.echoed(stream(CRD, RuntimeError("broken")), {MONITORS.group}):
            pass

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(through())


def test_an_outage_is_waited_for_without_an_end_and_looked_at_twice_a_minute() -> None:
    """Else the operator would crash again and again until the API server is back."""
    waits = list(itertools.islice(watch.Backoffs(), 1000))
    assert len(waits) == 1000
    assert max(waits) <= 30
    assert min(waits[6:]) >= 15
    # From the start each time: an outage that has ended is forgotten.
    assert next(iter(watch.Backoffs())) <= 1


def configured(**settings: str) -> tuple[Controller, Any]:
    environment = {f"ZIMAGE_OPERATOR_{name}": text for name, text in settings.items()}
    controller = Controller(Api(None), read({"KUBECONFIG": "x", **environment}), "test")
    return controller, watch.configure(controller)


def test_kopf_is_patient_writes_nothing_and_has_its_streams_filtered_on_the_server() -> None:
    controller, settings = configured()
    assert isinstance(settings.networking.error_backoffs, watch.Backoffs)
    # Neither a peering object nor events of its own.
    assert (settings.peering.standalone, settings.posting.enabled) == (True, False)
    # By kopf's own reading: the string form of its documents matches nothing, and says nothing.
    asked = settings.watching.label_selectors.collect
    kinds = controller.streams.kinds
    told = {kind.name: asked(Resource(kind.group, kind.version, kind.plural, namespaced=True)) for kind in kinds}
    assert told == {kind.name: [kind.selector] if kind.selector else [] for kind in kinds}
    assert sum(map(bool, told.values())) >= 10
    # Of these everybody's are looked at: the audit.
    assert not any(told[name] for name in ("NetworkPolicy", "Service", "Ingress", "HTTPRoute"))


def test_kopf_is_given_nothing_that_would_have_it_write_to_a_resource() -> None:
    """Handlers of events alone: each of the others has finalizers, annotations or timers."""
    controller, _ = configured()
    made = watch.registry(controller)
    assert len(made._watching.get_all_handlers()) == len(controller.streams.kinds)
    for others in (made._spawning, made._changing, made._indexing, made._webhooks):
        assert list(others.get_all_handlers()) == []


def test_where_only_some_namespaces_are_watched_no_right_to_watch_crds_is_asked_for() -> None:
    assert configured(WATCH_NAMESPACES="team-a")[1].scanning.disabled
    assert not configured()[1].scanning.disabled
