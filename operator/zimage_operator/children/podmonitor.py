"""What tells a Prometheus of the workers, where the Prometheus operator is installed."""

from __future__ import annotations

from ..manifest import Environment, Manifest, manifest
from ..names import LABEL_INSTANCE, MANAGEMENT_PORT_NAME, selector_labels
from ..spec import ZImageService


def pod_monitor(service: ZImageService, environment: Environment, *, served: bool) -> list[Manifest]:
    """Build the PodMonitor, if one is wanted; `served`: the cluster knows the kind.

    Asked for by name it is wanted even where nobody knows it: then it is said what is missing.
    """
    asked = service.spec.monitoring.pod_monitor
    if not (served and environment.pod_monitors if asked is None else asked):
        return []
    spec = {
        "selector": {"matchLabels": selector_labels(service.name)},
        # `pod` and `namespace` come with every target; alerts and dashboards also want the service's name.
        "podTargetLabels": [LABEL_INSTANCE],
        "podMetricsEndpoints": [{"port": MANAGEMENT_PORT_NAME}],
    }
    item = manifest("monitoring.coreos.com/v1", "PodMonitor", service, spec=spec)
    # Ours go before: by them we find it again.
    item["metadata"]["labels"] = {**dict(environment.pod_monitor_labels), **item["metadata"]["labels"]}
    return [item]
