"""The table of the worker's metrics, from the objects that the process counts with."""

from __future__ import annotations

from fastapi import FastAPI

from zimage_worker.http_metrics import instrument
from zimage_worker.metrics import Metrics

HEAD = """\
# The worker's metrics

On the management port at `/metrics`, made from the code by `make generate`. No label holds anything that a client has
written: methods are the nine of HTTP or `other`, paths are templates or `none`, statuses classes such as `4xx`.

| name | type | labels | what it counts |
|---|---|---|---|
"""


def page() -> str:
    """Give one row for each metric, as the process shows it."""
    registry = Metrics().registry
    instrument(FastAPI(), registry)
    rows = []
    for collector in dict.fromkeys(registry._names_to_collectors.values()):
        (metric,) = collector.describe()
        name = metric.name + "_total" * (metric.type == "counter")
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)
        rows.append(f"| `{name}` | {metric.type} | {labels} | {metric.documentation.strip()} |\n")
    return HEAD + "".join(sorted(rows))
