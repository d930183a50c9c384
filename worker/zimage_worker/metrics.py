"""Every metric of the worker."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from . import __version__

# Turbo on a large GPU takes a second, on a small one ten, a queue minutes.
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
# A millisecond is nothing, fifty is the goal of /health/live under load.
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """One registry a process; tests make as many as they like."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("zimage_requests", "Generation requests by outcome", ["outcome"], registry=registry)
        self.running = Gauge("zimage_requests_running", "Requests that hold the GPU", registry=registry)
        self.waiting = Gauge("zimage_requests_waiting", "Requests in the queue", registry=registry)
        self.queue_seconds = Histogram("zimage_queue_seconds", "Wait for the GPU", buckets=SECONDS, registry=registry)
        self.generation_seconds = Histogram(
            "zimage_generation_seconds", "Time on the GPU thread", buckets=SECONDS, registry=registry
        )
        self.busy_seconds = Counter(
            "zimage_engine_busy_seconds",
            "Seconds that the engine thread worked; its rate is the use",
            registry=registry,
        )
        self.step_seconds = Histogram("zimage_step_seconds", "One step", buckets=STEP_SECONDS, registry=registry)
        self.decode_seconds = Histogram(
            "zimage_decode_seconds", "Latents to pixels", buckets=STEP_SECONDS, registry=registry
        )
        self.encode_seconds = Histogram(
            "zimage_encode_seconds", "Pixels to PNG, JPEG or WebP", buckets=STEP_SECONDS, registry=registry
        )
        self.images = Counter("zimage_images", "Images made", registry=registry)
        self.pixels = Counter("zimage_pixels", "Pixels made", registry=registry)
        self.embeddings = Counter(
            "zimage_embedding_cache", "Prompts looked up in the cache", ["result"], registry=registry
        )
        self.oom_rungs = Counter("zimage_oom_rungs", "What a lack of memory led to", ["rung"], registry=registry)
        self.auth_failures = Counter("zimage_auth_failures", "Refused callers", ["reason"], registry=registry)
        self.rate_limited = Counter("zimage_rate_limited", "Refused for their rate", ["kind"], registry=registry)
        self.gpu_allocated = Gauge("zimage_gpu_allocated_bytes", "Bytes of tensors on the GPU", registry=registry)
        self.gpu_reserved = Gauge("zimage_gpu_reserved_bytes", "Bytes the allocator holds", registry=registry)
        self.gpu_peak = Gauge("zimage_gpu_peak_bytes", "Most bytes of tensors so far", registry=registry)
        self.gpu_fragmentation = Gauge(
            "zimage_gpu_fragmentation_ratio", "Share of the held bytes that no tensor uses", registry=registry
        )
        self.connections_open = Gauge("zimage_connections_open", "Open connections", ["port"], registry=registry)
        self.connections_refused = Counter(
            "zimage_connections_refused", "Turned away: every connection was at work", ["port"], registry=registry
        )
        self.access_log_dropped = Counter(
            "zimage_access_log_dropped", "Lines of the access log that nobody took", registry=registry
        )
        self.connections_evicted = Counter(
            "zimage_connections_evicted", "Closed to make room for a newcomer", ["port"], registry=registry
        )
        self.connections_cut = Counter(
            "zimage_connections_cut", "Closed because the client was too slow", ["port", "awaited"], registry=registry
        )
        self.http_refused = Counter(
            "zimage_http_refused", "Requests refused before any route was looked for", ["port", "code"],
            registry=registry,
        )  # fmt: skip
        self.loop_lag_seconds = Histogram(
            "zimage_event_loop_lag_seconds", "How late the event loop is", buckets=LAG_SECONDS, registry=registry
        )
        for result in ("hit", "miss"):
            self.embeddings.labels(result)
        for rung in ("retry", "tiled", "refused"):
            self.oom_rungs.labels(rung)
        build = Gauge("zimage_build_info", "Always 1", ["version"], registry=registry)
        build.labels(__version__).set(1)

    def counted(self, event: str) -> None:
        """What an engine counts, on its own thread: `embedding_hit`, `oom_retry`, …"""
        kind, _, label = event.partition("_")
        (self.embeddings if kind == "embedding" else self.oom_rungs).labels(label).inc()
