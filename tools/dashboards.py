"""The two Grafana dashboards: one row of panels a line, written out as Grafana's JSON."""

from __future__ import annotations

import json
from typing import Any

# Title, unit of Grafana, and what is asked for, with the legend of each series.
Panel = tuple[str, str, str, str]
WHICH = 'namespace=~"$namespace"'
BY = "namespace, app_kubernetes_io_instance"
NAME = "{{namespace}}/{{app_kubernetes_io_instance}}"
SERVICE = "{{namespace}}/{{name}}"
POD = "{{namespace}}/{{pod}}"


def rate(metric: str, by: str = BY, where: str = WHICH) -> str:
    """Ask how much of something there is each second."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = BY, where: str = WHICH) -> str:
    """Ask for what a share of the observations stays below."""
    return f"histogram_quantile({share}, {rate(metric + '_bucket', f'le, {by}', where)})"


SERVICES: list[Panel] = [
    ("Ready", "short", f'zimage_service_condition{{{WHICH}, type="Ready", status="True"}}', SERVICE),
    (
        "Reached past the wall",
        "short",
        f'zimage_service_condition{{{WHICH}, type="NetworkPolicyEnforced", status="False"}}',
        SERVICE,
    ),
    ("Open beside the declaration", "short", f"zimage_service_exposures{{{WHICH}}}", SERVICE + " {{reason}}"),
    ("Download of the model", "percentunit", f"zimage_service_downloaded_ratio{{{WHICH}}}", SERVICE),
    ("Certificate ends in", "s", f"zimage_service_certificate_expiry_timestamp_seconds{{{WHICH}}} - time()", SERVICE),
    ("Images a second", "short", rate("zimage_images_total"), NAME),
    ("Requests by outcome", "reqps", rate("zimage_requests_total", f"{BY}, outcome"), NAME + " {{outcome}}"),
    ("Waiting", "short", f"sum by ({BY}) (zimage_requests_waiting{{{WHICH}}})", NAME),
    ("Wait for the GPU, 95 %", "s", quantile(0.95, "zimage_queue_seconds"), NAME),
    ("On the GPU, 95 %", "s", quantile(0.95, "zimage_generation_seconds"), NAME),
    ("Use of the engine", "percentunit", rate("zimage_engine_busy_seconds_total"), NAME),
    ("Refused callers", "reqps", rate("zimage_auth_failures_total", f"{BY}, reason"), NAME + " {{reason}}"),
    ("Refused for their rate", "reqps", rate("zimage_rate_limited_total", f"{BY}, kind"), NAME + " {{kind}}"),
    ("GPU memory in tensors", "bytes", f"zimage_gpu_allocated_bytes{{{WHICH}}}", POD),
    (
        "GPU memory held and unused",
        "percentunit",
        f"zimage_gpu_fragmentation_ratio{{{WHICH}}}",
        "{{namespace}}/{{pod}}",
    ),
    ("What missing memory led to", "short", rate("zimage_oom_rungs_total", f"{BY}, rung"), NAME + " {{rung}}"),
    ("Event loop late, 99 %", "s", quantile(0.99, "zimage_event_loop_lag_seconds"), NAME),
]
API, SYNC = "zimage_operator_api_requests_total", "zimage_operator_last_sync_timestamp_seconds"
OPERATOR: list[Panel] = [
    ("Who acts", "short", "zimage_operator_leader", "{{pod}}"),
    ("Reconciles by result", "ops", rate("zimage_operator_reconcile_total", "result", ""), "{{result}}"),
    ("One reconcile, 95 %", "s", quantile(0.95, "zimage_operator_reconcile_seconds", "job", ""), "95 %"),
    ("Waiting resources", "short", "sum(zimage_operator_queue_depth)", "resources"),
    (
        "Requests to the API server",
        "reqps",
        rate("zimage_operator_api_requests_total", "verb, code", ""),
        "{{verb}} {{code}}",
    ),
    ("One request, 95 %", "s", quantile(0.95, "zimage_operator_api_request_seconds", "verb", ""), "{{verb}}"),
    ("Applied children", "ops", rate("zimage_operator_apply_total", "kind, outcome", ""), "{{kind}} {{outcome}}"),
    ("Hand edits put right", "ops", rate("zimage_operator_drift_repaired_total", "kind", ""), "{{kind}}"),
    ("Written statuses", "ops", rate("zimage_operator_status_writes_total", "job", ""), "statuses"),
    (
        "Since the last full list",
        "s",
        f"time() - max by (kind) ({SYNC})",
        "{{kind}}",
    ),
    ("Probes of pods by what they found", "ops", rate("zimage_operator_probes_total", "result", ""), "{{result}}"),
    ("Events of the watches", "ops", rate("zimage_operator_watch_events_total", "kind", ""), "{{kind}}"),
]
BOARDS = {"services": ("Z-Image services", SERVICES), "operator": ("Z-Image operator", OPERATOR)}
# Grafana's grid has 24 columns; three panels in a row are read on a laptop.
WIDTH, HEIGHT = 8, 7
SOURCE = {"type": "prometheus", "uid": "${source}"}


def outputs() -> dict[str, str]:
    """Give the text of each dashboard by its name."""
    return {name: json.dumps(dashboard(name, *board), indent=1) + "\n" for name, board in BOARDS.items()}


def dashboard(name: str, title: str, panels: list[Panel]) -> dict[str, Any]:
    """Write one dashboard: the source of the data and, for the services, the namespaces can be chosen."""
    chosen: list[dict[str, Any]] = [{"name": "source", "type": "datasource", "query": "prometheus"}]
    if name == "services":
        query = "label_values(zimage_service_condition, namespace)"
        more = {"includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
        chosen.append(
            {"name": "namespace", "type": "query", "datasource": SOURCE, "query": query, "refresh": 2, **more}
        )
    return {
        "uid": f"zimage-{name}",
        "title": title,
        "tags": ["zimage"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": chosen},
        "panels": [drawn(place, panel) for place, panel in enumerate(panels)],
    }


def drawn(place: int, panel: Panel) -> dict[str, Any]:
    """Write one panel."""
    title, unit, expression, legend = panel
    row, column = divmod(place, 24 // WIDTH)
    return {
        "id": place + 1,
        "title": title,
        "type": "timeseries",
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": expression, "legendFormat": legend}],
    }
