"""The management port's app: metrics, health, posture. Reached by kubelet, monitoring and operator only."""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .admission import FairQueue
from .errors import MethodNotAllowed, NotFound
from .metrics import Metrics
from .middleware import Receive, Send, refuse
from .state import State, posture

Answer = tuple[int, str, bytes]


def as_json(status: int, document: dict[str, Any]) -> Answer:
    """A JSON answer."""
    return status, "application/json", json.dumps(document).encode()


class Management:
    """Plain ASGI: it must answer while the model is imported, and needs no framework for five paths."""

    def __init__(self, state: State, queue: FairQueue, metrics: Metrics) -> None:
        self.state = state
        self.queue = queue
        self.metrics = metrics
        self.paths: dict[str, Callable[[], Answer]] = {
            "/metrics": self.exposition,
            "/health/live": lambda: as_json(200, {"status": "live"}),
            "/health/startup": self.startup,
            "/health/ready": self.ready,
            "/posture": lambda: as_json(200, posture(self.state)),
        }

    async def __call__(self, scope: MutableMapping[str, Any], _receive: Receive, send: Send) -> None:
        """Look the path up and answer."""
        if scope["type"] != "http":
            return
        path = self.paths.get(scope["path"])
        if path is None:
            await refuse(NotFound("There is nothing here."), send)
        elif scope["method"] not in {"GET", "HEAD"}:
            await refuse(MethodNotAllowed("Only GET and HEAD are served here.", "GET, HEAD"), send)
        else:
            status, kind, body = path()
            headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def startup(self) -> Answer:
        """200 once the model is loaded: until then the kubelet's startup probe waits."""
        engine = self.state.engine
        document = {"phase": self.state.phase, "loadedFraction": engine.fraction}
        return as_json(200 if engine.loaded else 503, document)

    def ready(self) -> Answer:
        """200 only when a request would be served."""
        reasons = self.state.why_not_ready()
        return as_json(503 if reasons else 200, {"ready": not reasons, "reasons": reasons})

    def exposition(self) -> Answer:
        """Prometheus' text, with the gauges that are read rather than counted."""
        memory = self.state.engine.memory()
        self.metrics.running.set(int(self.queue.busy))
        self.metrics.waiting.set(self.queue.waiting_count)
        self.metrics.gpu_allocated.set(memory.allocated_bytes)
        self.metrics.gpu_reserved.set(memory.reserved_bytes)
        self.metrics.gpu_peak.set(memory.peak_bytes)
        unused = memory.reserved_bytes - memory.allocated_bytes
        self.metrics.gpu_fragmentation.set(unused / memory.reserved_bytes if memory.reserved_bytes else 0.0)
        return 200, CONTENT_TYPE_LATEST, generate_latest(self.metrics.registry)
