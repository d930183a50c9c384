"""What a worker asks of a DRA driver (resource.k8s.io), where its devices come from one."""

from __future__ import annotations

from ..manifest import Manifest, digest, manifest
from ..spec import ZImageService

CLAIM = "gpu"


def claim_template(service: ZImageService) -> Manifest:
    """Build the template of the claim that each worker's pod gets for itself alone."""
    item = manifest("resource.k8s.io/v1", "ResourceClaimTemplate", service, spec={"spec": claim_spec(service)})
    item["metadata"]["name"] = claim_template_name(service)
    return item


def claim_spec(service: ZImageService) -> Manifest:
    """Build the claim: so many devices of one class, all of them."""
    gpu = service.spec.gpu
    exactly = {"deviceClassName": gpu.device_class_name, "allocationMode": "ExactCount", "count": gpu.count}
    return {"devices": {"requests": [{"name": CLAIM, "exactly": exactly}]}}


def claim_template_name(service: ZImageService) -> str:
    """Give the name: the spec of such a template never changes, so another claim is another object."""
    return f"{service.name}-gpu-{digest(claim_spec(service))[:8]}"
