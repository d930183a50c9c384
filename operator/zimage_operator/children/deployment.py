"""One worker, on a GPU of its own, per replica."""

from __future__ import annotations

from ..manifest import Environment, Manifest, digest, manifest
from ..names import REVISION_ANNOTATION, labels, selector_labels
from ..spec import ZImageService
from .configmap import settings
from .pod import pod

REVISION_VARIABLE = "ZIMAGE_TEMPLATE_REVISION"


def deployment(service: ZImageService, environment: Environment) -> Manifest:
    """Build the Deployment that runs the workers; pure and total.

    Recreate is the default: a rolling update needs a spare GPU for the new pod, and where
    there is none it would wait for ever.
    """
    revision = template_revision(service, environment)
    template_pod = pod(service, environment)
    template_pod["containers"][0]["env"] = [{"name": REVISION_VARIABLE, "value": revision}]
    spec: Manifest = {
        "replicas": service.spec.replicas,
        "selector": {"matchLabels": selector_labels(service.name)},
        "strategy": strategy(service),
        "progressDeadlineSeconds": service.spec.rollout.progress_deadline_seconds,
        # Old templates are in Git; a rollback is an apply of the old resource.
        "revisionHistoryLimit": 2,
        "template": {
            "metadata": {"labels": labels(service.name), "annotations": {REVISION_ANNOTATION: revision}},
            "spec": template_pod,
        },
    }
    return manifest("apps/v1", "Deployment", service, spec=spec)


def template_revision(service: ZImageService, environment: Environment) -> str:
    """Give the digest of all that a running worker was started with.

    The settings count: the environment of a process does not change, so a changed
    ConfigMap has to start new pods.
    """
    return digest([pod(service, environment), settings(service)])


def strategy(service: ZImageService) -> Manifest:
    """Build the update strategy; never fewer workers than asked for where a spare GPU exists."""
    if service.spec.rollout.strategy == "Recreate":
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
