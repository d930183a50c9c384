"""What is exported of each service, and taken back when it no longer holds."""

from __future__ import annotations

from collections import Counter
from typing import Any

from prometheus_client import Gauge

from . import metrics
from .manifest import Key
from .model_status import downloaded
from .observed import instant
from .reconcile import Outcome

Series = tuple[Gauge, tuple[str, ...]]
# What was exported for a service, so that it can be taken back.
exported: dict[Key, set[Series]] = {}


def measure(key: Key, outcome: Outcome) -> None:
    """Export the conditions of a service, its holes, what the probes found, and how far its download is."""
    status, observed = outcome.status, outcome.observed
    metrics.CONDITIONS.set(key, tuple((item["type"], item["status"]) for item in status["conditions"]))
    holes = Counter(hole.reason for hole in observed.exposure.holes)
    wanted: dict[Series, float] = {(metrics.EXPOSURES, (*key, reason)): count for reason, count in holes.items()}
    looks = [observed.reports[pod.uid] for pod in observed.pods if pod.uid in observed.reports]
    results = Counter(look.isolation for look in looks)
    wanted |= {(metrics.PROBED, (*key, result)): count for result, count in results.items()}
    probed = [look.at.timestamp() for look in looks if look.at and look.isolation != "untested"]
    wanted |= {(metrics.LAST_PROBE, key): max(probed)} if probed else {}
    expiry = instant((status.get("certificate") or {}).get("notAfter"))
    wanted |= {(metrics.CERTIFICATE_EXPIRY, key): expiry.timestamp()} if expiry else {}
    share = downloaded(observed)
    wanted |= {(metrics.DOWNLOADED, key): share} if share is not None else {}
    export(key, wanted)


def forget(key: Key) -> None:
    """Take back what was exported for a service."""
    metrics.CONDITIONS.remove(key)
    export(key, {})


def export(key: Key, wanted: dict[Series, Any]) -> None:
    """Set what is wanted and remove what is not any more."""
    for gauge, labels in exported.get(key, set()) - set(wanted):
        gauge.remove(*labels)
    for (gauge, labels), value in wanted.items():
        gauge.labels(*labels).set(value)
    if wanted:
        exported[key] = set(wanted)
    else:
        exported.pop(key, None)
