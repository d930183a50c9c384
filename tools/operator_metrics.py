"""The table of the operator's metrics, from the objects that the process counts with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

from zimage_operator import metrics

HEAD = """\
# The operator's metrics

On the management port at `/metrics`, made from the code by `make generate`. `namespace` and `name` are those of a
ZImageService; its series go with it. No other label holds a text that a resource's author could make up.

| name | type | labels | what it counts |
|---|---|---|---|
"""


def page() -> str:
    """Give one row for each metric."""
    return HEAD + "".join(sorted(rows()))


def rows() -> Iterator[str]:
    """Give the library's own objects, and the one collector that writes its series when it is asked."""
    counted = [item for item in vars(metrics).values() if isinstance(item, MetricWrapperBase)]
    for item in counted:
        yield from (row(metric, item._labelnames) for metric in item.describe())
    for family in metrics.CONDITIONS.collect():
        yield row(family, family._labelnames)


def row(metric: Metric, names: Sequence[str]) -> str:
    """Write one row."""
    name = metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")
    labels = ", ".join(f"`{label}`" for label in names)
    return f"| `{name}` | {metric.type} | {labels} | {metric.documentation.strip()} |\n"
