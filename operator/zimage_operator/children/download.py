"""The Job that fetches a model, the volume that it lies in, and nothing of which the workers need."""

from __future__ import annotations

from ..manifest import Environment, Manifest, digest, manifest
from ..models import Choice
from ..names import (
    DOWNLOAD,
    HUB_KEY,
    HUB_MOUNT,
    MANAGEMENT_PORT,
    MANAGEMENT_PORT_NAME,
    MODEL_CLAIM,
    MODELS_MOUNT,
    labels,
)
from ..spec import HubSource, Storage, ZImageService
from .pod import EXIT_SECONDS, UNPRIVILEGED, one_node, placement, secret_volume, skeleton, worker_image

# Exit codes of `zimage-worker fetch` after which the same command fails again (docs/fetch.md).
HOPELESS = (1, 2, 10, 11, 12, 13, 17, 18)
# After 10, 20 and 40 s; then the Job is given up, and made anew later (models.RETRY).
RETRIES = 3
# The interpreter and one 64 MiB piece; the rest is page cache, which a larger limit lets drain faster.
AMOUNTS = {
    "requests": {"cpu": "250m", "memory": "256Mi", "ephemeral-storage": "64Mi"},
    "limits": {"memory": "1Gi", "ephemeral-storage": "256Mi"},
}


def claim_name(service: ZImageService) -> str:
    """Give the name of the volume's claim."""
    return f"{service.name}-{MODEL_CLAIM}"


def model_claim(service: ZImageService) -> Manifest:
    """Build the claim of the volume. What is not written is the cluster's to choose."""
    storage = service.model.storage or Storage()
    spec: Manifest = {"accessModes": [storage.access_mode], "resources": {"requests": {"storage": storage.size}}}
    if storage.storage_class_name:
        spec["storageClassName"] = storage.storage_class_name
    return manifest("v1", "PersistentVolumeClaim", service, MODEL_CLAIM, DOWNLOAD, spec=spec)


def download_job(service: ZImageService, environment: Environment, choice: Choice) -> Manifest:
    """Build the Job. A Job's pod cannot be changed: its name holds its digest, and another pod is another Job.

    Not of the folders to be kept, which are those in use when it was made.
    """
    assert choice.wanted, "only where something is to be fetched"
    pod = fetcher(service, environment, choice)
    name = digest({**pod, "containers": [pod["containers"][0] | {"args": arguments(choice, ())}]})[:10]
    policy = [
        {"action": "FailJob", "onExitCodes": {"containerName": "fetch", "operator": "In", "values": list(HOPELESS)}},
        # A drained node is no failure of the hub's.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    template = {"metadata": {"labels": labels(service.name, DOWNLOAD)}, "spec": pod}
    spec = {
        "parallelism": 1,
        "completions": 1,
        # Sent, though they are the defaults: what we do not send we would not put back.
        "suspend": False,
        "backoffLimit": RETRIES,
        "podFailurePolicy": {"rules": policy},
        "template": template,
    }
    return manifest("batch/v1", "Job", service, f"{DOWNLOAD}-{name}", DOWNLOAD, spec=spec)


def fetcher(service: ZImageService, environment: Environment, choice: Choice) -> Manifest:
    """Build the Job's pod: where workers may run, so that the volume is made where they can reach it."""
    hub = service.model.source
    assert isinstance(hub, HubSource), "only a hub's model is fetched"
    volumes: list[Manifest] = [
        {"name": "models", "persistentVolumeClaim": {"claimName": claim_name(service)}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ]
    mounts = [{"name": "models", "mountPath": MODELS_MOUNT}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    variables = {"HF_ENDPOINT": hub.endpoint} if hub.endpoint else {}
    if hub.token_secret_name:
        # It may be missing: the fetch then says so, and the operator never has to read a Secret.
        volumes.append(secret_volume("hub", hub.token_secret_name, HUB_KEY, HUB_KEY))
        mounts.append({"name": "hub", "mountPath": HUB_MOUNT, "readOnly": True})  # type: ignore[dict-item]
        variables["HF_TOKEN_PATH"] = f"{HUB_MOUNT}/{HUB_KEY}"
    container: Manifest = {
        "name": "fetch",
        **worker_image(service, environment),
        "args": arguments(choice, choice.keep),
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "ports": [{"name": MANAGEMENT_PORT_NAME, "containerPort": MANAGEMENT_PORT, "protocol": "TCP"}],
        "resources": AMOUNTS,
        "securityContext": UNPRIVILEGED,
        "volumeMounts": mounts,
    }
    body = skeleton(service, container, volumes, EXIT_SECONDS)
    return body | {"restartPolicy": "Never"} | placement(service) | one_node(service)


def arguments(choice: Choice, keep: tuple[str, ...]) -> list[str]:
    """Build the command line; docs/fetch.md explains it."""
    assert choice.wanted, "only where something is to be fetched"
    wanted = choice.wanted
    where = ["--to", f"{MODELS_MOUNT}/{wanted.folder}", "--clear", "--report", "/dev/termination-log"]
    kept = [part for folder in keep for part in ("--keep", folder)]
    progress = ["--progress-port", str(MANAGEMENT_PORT)]
    return ["fetch", "--repo", wanted.repo, "--revision", wanted.revision, *where, *progress, *kept]
