"""One worker, on a GPU of its own, per replica."""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import MODEL_ANNOTATION, REVISION_ANNOTATION, labels, selector_labels
from ..spec import ZImageService
from .template import Template

REVISION_VARIABLE = "ZIMAGE_TEMPLATE_REVISION"


def deployment(service: ZImageService, template: Template) -> Manifest:
    """Build the Deployment that runs the workers; pure and total.

    Recreate is the default: a rolling update needs a spare GPU for the new pod, and where
    there is none it would wait for ever.
    """
    worker = template.pod["containers"][0] | {"env": [{"name": REVISION_VARIABLE, "value": template.revision}]}
    spec: Manifest = {
        **replicas(service),
        "selector": {"matchLabels": selector_labels(service.name)},
        "strategy": strategy(service),
        "progressDeadlineSeconds": service.spec.rollout.progress_deadline_seconds,
        # Old templates are in Git; a rollback is an apply of the old resource.
        "revisionHistoryLimit": 2,
        "template": {
            "metadata": {
                "labels": labels(service.name),
                "annotations": {REVISION_ANNOTATION: template.revision, **served(template)},
            },
            "spec": {**template.pod, "containers": [worker]},
        },
    }
    return manifest("apps/v1", "Deployment", service, spec=spec)


def served(template: Template) -> Manifest:
    """Build the annotation that says which fetched model the workers read: its folder is not removed under them."""
    return {MODEL_ANNOTATION: template.model.folder} if template.model else {}


def replicas(service: ZImageService) -> Manifest:
    """Build the count. Where an autoscaler owns it we are silent, or the two would fight."""
    if service.spec.suspend:
        return {"replicas": 0}
    return {} if service.spec.autoscaling else {"replicas": service.spec.replicas}


def strategy(service: ZImageService) -> Manifest:
    """Build the update strategy; never fewer workers than asked for where a spare GPU exists."""
    if service.spec.rollout.strategy == "Recreate":
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
