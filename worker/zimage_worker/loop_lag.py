"""How late the event loop is: what blocks it delays every client, the kubelet's probes first."""

from __future__ import annotations

import asyncio
import time

from .metrics import Metrics

# Often enough to meet a block of 50 ms now and then, and nothing for the processor.
EVERY_SECONDS = 0.25


async def measure(metrics: Metrics) -> None:
    """For ever."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(EVERY_SECONDS)
        metrics.loop_lag_seconds.observe(max(0.0, time.monotonic() - began - EVERY_SECONDS))
