"""Who decides how many workers run, where the user has handed that over."""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import QUEUE_METRIC
from ..spec import Autoscaling, ZImageService

# A worker needs minutes to load 20 GB of weights: giving its GPU back after a short lull is
# dear. Twice Kubernetes' own default; a guess, measure it.
SCALE_DOWN_SECONDS = 600


def autoscaler(service: ZImageService, wanted: Autoscaling) -> Manifest:
    """Build the HorizontalPodAutoscaler on the workers' queues (docs/autoscaling.md)."""
    target = {"type": "AverageValue", "averageValue": str(wanted.target_queue_depth)}
    spec = {
        # The Deployment, not our own scale subresource: nothing may write the user's spec.
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": service.name},
        "minReplicas": wanted.min_replicas,
        "maxReplicas": wanted.max_replicas,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": QUEUE_METRIC}, "target": target}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": SCALE_DOWN_SECONDS}},
    }
    return manifest("autoscaling/v2", "HorizontalPodAutoscaler", service, spec=spec)
