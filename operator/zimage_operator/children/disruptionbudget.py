"""How many workers a drain of nodes may take at once."""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import selector_labels
from ..spec import ZImageService


def disruption_budget(service: ZImageService) -> Manifest:
    """Build the PodDisruptionBudget: one worker at a time, whatever their number.

    Never `minAvailable`: with one replica it would hold up every drain for ever
    (docs/decisions/0211-a-budget-that-lets-go.md).
    """
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": selector_labels(service.name)},
        # A worker that does not serve protects nobody, and must not keep a node from being emptied.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return manifest("policy/v1", "PodDisruptionBudget", service, spec=spec)
