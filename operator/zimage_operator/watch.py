"""Streams → cache → queue. The only file that knows kopf; it holds no rules.

Only kopf's low-level half is in use: watch streams, log-in, signals. Its storages are
switched off (they cost two thirds of its time and write annotations), as are peering,
event posting, finalizers and its own state tracking (docs/decisions/0002-kopf-low-level.md).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import kopf

from .controller import Controller
from .kinds import Kind
from .settings import Settings


class NoDiffBase(kopf.DiffBaseStorage):
    """Remembers no last-handled state: nothing is written, nothing is copied per event."""

    def build(self, **_: Any) -> Any:
        """Give an empty essence."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """Give none."""
        return {}

    def store(self, **_: Any) -> None:
        """Write nothing."""


class NoProgress(kopf.ProgressStorage):
    """Remembers no progress of handlers: there is none."""

    def fetch(self, **_: Any) -> Any:
        """Give none."""
        return None

    def clear(self, *, essence: Any) -> Any:
        """Leave it as it is."""
        return essence

    def store(self, **_: Any) -> None:
        """Write nothing."""

    def purge(self, **_: Any) -> None:
        """Write nothing."""

    def touch(self, **_: Any) -> None:
        """Write nothing."""


class Backoffs:
    """Endless: an outage of the API server must not become a crash loop of the operator."""

    def __iter__(self) -> Iterator[float]:
        return (random.uniform(0.5, 1) * min(30.0, 2.0 ** min(i, 5)) for i in itertools.count())  # noqa: S311


def handler(controller: Controller, kind: Kind) -> Callable[..., Any]:
    """Build the handler of one kind. It never touches `patch` and returns None: kopf never writes."""

    async def on_event(event: Any, **_: Any) -> None:
        controller.event(kind, event["object"], event["type"])

    return on_event


def registry(controller: Controller) -> kopf.OperatorRegistry:
    """Register one plain event handler per kind, and the log-in."""
    handlers = kopf.OperatorRegistry()
    for kind in controller.kinds:
        on = kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=handlers)
        on(handler(controller, kind))

    async def login(**_: Any) -> kopf.ConnectionInfo:
        known = await controller.api.credentials()
        return kopf.ConnectionInfo(
            server=known.server,
            ca_path=known.ca_path,
            certificate_path=known.certificate_path,
            private_key_path=known.key_path,
            scheme="Bearer" if known.token else None,
            token=known.token,
        )

    kopf.on.login(registry=handlers)(login)
    return handlers


def configure(controller: Controller) -> kopf.OperatorSettings:
    """Switch off what we do ourselves, and make the watches patient."""
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.consistency_timeout = 0
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.networking.error_backoffs = Backoffs()
    settings.queueing.idle_timeout = 0.1
    settings.watching.chunk_size = 500
    # With Roles only there is no right to watch CRDs and namespaces: one that comes later needs a restart.
    settings.scanning.disabled = bool(controller.settings.watch_namespaces)
    for kind in controller.kinds:
        if kind.selector:
            # Tuple keys only: the string form of the docs matches nothing, silently.
            settings.watching.label_selectors[(kind.group, kind.version, kind.plural)] = kind.selector
    # One line per event and handler otherwise.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    logging.getLogger("kopf.activities").setLevel(logging.WARNING)
    return settings


async def watch(controller: Controller, settings: Settings, asked: asyncio.Event, stop: asyncio.Event) -> None:
    """Run the streams until `stop`; a signal sets `asked`."""
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry(controller),
        settings=configure(controller),
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
        stop_flag=stop,
    )
    # In place of kopf's own answer, which ends every task of the loop: the Lease is given
    # back first, and the streams end last.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await kopf.run_tasks(tasks, ignored=others)
