"""The worker's settings, under the names that the worker reads (tests/contract compares both)."""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import (
    BASIC_MOUNT,
    CERTIFICATE_KEY,
    CERTIFICATE_MOUNT,
    HTTP_PORT,
    MANAGEMENT_PORT,
    MODEL_MOUNT,
)
from ..spec import RateLimit, ZImageService

HTPASSWD_FILE = f"{BASIC_MOUNT}/htpasswd"
CERTIFICATE_FILE = f"{CERTIFICATE_MOUNT}/{CERTIFICATE_KEY}"


def config_map(service: ZImageService, values: dict[str, str]) -> Manifest:
    """Build the ConfigMap that the worker's environment comes from. Nothing in it is secret."""
    return manifest("v1", "ConfigMap", service, data=values)


def settings(service: ZImageService) -> dict[str, str]:
    """Give the worker's environment; units are in the names."""
    spec, ingress = service.spec, service.spec.ingress
    limits = ingress.rate_limit if ingress else RateLimit()
    path = service.model.source.path
    values: dict[str, object] = {
        "ZIMAGE_MODEL_PATH": f"{MODEL_MOUNT}/{path}" if path else MODEL_MOUNT,
        "ZIMAGE_PORT": HTTP_PORT,
        "ZIMAGE_MANAGEMENT_PORT": MANAGEMENT_PORT,
        "ZIMAGE_AUTH_MODE": service.auth.mode,
        "ZIMAGE_ALLOWED_HOSTS": ",".join(hosts(service)),
        # Nobody but the proxies can connect (NetworkPolicy), and their addresses change with
        # every restart: whoever connects is a proxy, and the address it reports last counts.
        "ZIMAGE_TRUSTED_PROXIES": "0.0.0.0/0,::/0",
        "ZIMAGE_RATE_LIMIT_PER_MINUTE": limits.requests_per_minute,
        "ZIMAGE_RATE_LIMIT_BURST": limits.burst,
        "ZIMAGE_QUEUE_LENGTH": spec.generation.queue_length,
        "ZIMAGE_REQUEST_TIMEOUT_SECONDS": spec.generation.request_timeout_seconds,
        "ZIMAGE_DRAIN_SECONDS": spec.rollout.drain_seconds,
        "ZIMAGE_MAX_PIXELS": spec.generation.max_pixels,
        "ZIMAGE_MAX_STEPS": spec.generation.max_steps,
        "ZIMAGE_MAX_IMAGES": spec.generation.max_images,
    }
    if service.auth.basic:
        values["ZIMAGE_BASIC_FILE"] = HTPASSWD_FILE
    if ingress:
        values["ZIMAGE_CERTIFICATE_FILE"] = CERTIFICATE_FILE
    return {name: str(value) for name, value in values.items()}


def hosts(service: ZImageService) -> list[str]:
    """Give the names that the worker answers to: the published one first, which its certificate must cover."""
    name, namespace = service.name, service.namespace
    inside = [name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local"]
    return [service.spec.ingress.host, *inside] if service.spec.ingress else inside
