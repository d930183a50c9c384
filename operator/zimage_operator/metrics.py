"""Every metric of the operator. No label is a text that a resource's author can make up without bound."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

STATES = ("True", "False", "Unknown")


class Conditions(Collector):
    """The conditions of every service, written out when they are asked for.

    The library's own gauge keeps two dozen objects of 1 KiB for each service: more than all else that
    is kept of it.
    """

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}
        # Most services are in one of a few states.
        self.known: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {}

    def set(self, key: tuple[str, str], conditions: tuple[tuple[str, str], ...]) -> None:
        """Take the types and statuses of one service."""
        self.found[key] = self.known.setdefault(conditions, conditions)

    def remove(self, key: tuple[str, str]) -> None:
        """Forget a service."""
        self.found.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        """Give a series for each state of each condition."""
        names = ["namespace", "name", "type", "status"]
        family = GaugeMetricFamily("zimage_service_condition", "Conditions of the services", labels=names)
        for key, conditions in list(self.found.items()):
            for kind, status in conditions:
                for state in STATES:
                    family.add_metric([*key, kind, state], float(state == status))
        yield family


BUILD = Info("zimage_operator_build", "The version that runs")
RECONCILES = Counter("zimage_operator_reconcile_total", "Reconciles by result", ["result"])
RECONCILE_SECONDS = Histogram("zimage_operator_reconcile_seconds", "Time of one reconcile")
QUEUE_DEPTH = Gauge("zimage_operator_queue_depth", "Resources that wait to be reconciled")
API_REQUESTS = Counter("zimage_operator_api_requests_total", "Requests to the API server", ["verb", "kind", "code"])
API_SECONDS = Histogram("zimage_operator_api_request_seconds", "Time of one request to the API server", ["verb"])
APPLIES = Counter("zimage_operator_apply_total", "Server-side applies of children", ["kind", "outcome"])
DRIFT_REPAIRED = Counter("zimage_operator_drift_repaired_total", "Hand edits that were put right", ["kind"])
PRUNED = Counter("zimage_operator_pruned_total", "Children that are no longer wanted", ["kind"])
STATUS_WRITES = Counter("zimage_operator_status_writes_total", "Writes of a status")
WATCH_EVENTS = Counter("zimage_operator_watch_events_total", "Events of the watch streams", ["kind", "type"])
SWEEP_DELETIONS = Counter("zimage_operator_sweep_deletions_total", "Deletions that no watch reported", ["kind"])
LAST_EVENT = Gauge("zimage_operator_last_sync_timestamp_seconds", "Last full list of a kind", ["kind"])
LAST_SIGN = Gauge(
    "zimage_operator_watch_last_sign_timestamp_seconds", "Last event or bookmark of a kind's stream", ["kind"]
)
LEADER = Gauge("zimage_operator_leader", "1 where this replica acts")
PROBES = Counter("zimage_operator_probes_total", "Isolation probes of pods by what they found", ["result"])
EDGE_PROBES = Counter("zimage_operator_edge_probes_total", "Requests of strangers to published URLs", ["result"])
PROBED = Gauge(
    "zimage_service_probed_pods", "Pods by what the last probe of each found", ["namespace", "name", "isolation"]
)
LAST_PROBE = Gauge(
    "zimage_service_last_probe_timestamp_seconds", "Last isolation probe of a service", ["namespace", "name"]
)
EXPOSURES = Gauge(
    "zimage_service_exposures",
    "Objects that open a service beside its declaration",
    ["namespace", "name", "reason"],
)
DOWNLOADED = Gauge(
    "zimage_service_downloaded_ratio", "How much of its model is there, while that is downloaded", ["namespace", "name"]
)
CONDITIONS = Conditions()
REGISTRY.register(CONDITIONS)
CERTIFICATE_EXPIRY = Gauge(
    "zimage_service_certificate_expiry_timestamp_seconds",
    "When the edge's certificate expires",
    ["namespace", "name"],
)
