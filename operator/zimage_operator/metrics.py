"""Every metric of the operator. No label is a text that a resource's author can make up without bound."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, Info

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
CONDITION = Gauge("zimage_service_condition", "Conditions of the services", ["namespace", "name", "type", "status"])
CERTIFICATE_EXPIRY = Gauge(
    "zimage_service_certificate_expiry_timestamp_seconds",
    "When the edge's certificate expires",
    ["namespace", "name"],
)
