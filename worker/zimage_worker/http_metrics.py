"""Metrics of each HTTP request: the instrumentator's, with labels that no stranger can multiply."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.metrics import Info, default

from .visible import known_method


def instrument(app: FastAPI, registry: CollectorRegistry) -> None:
    """Count and time what reaches the routes. Paths are templates or "none", statuses classes as 4xx."""
    measured = default(metric_namespace="zimage", registry=registry)
    assert measured is not None
    Instrumentator(registry=registry).add(bounded(measured)).instrument(app)


def bounded(measured: Callable[[Info], None]) -> Callable[[Info], None]:
    """Made-up methods are one method: each would be a series for ever."""

    def instrumentation(info: Info) -> None:
        info.method = known_method(info.method)
        measured(info)

    return instrumentation
