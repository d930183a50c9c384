"""The worker's settings, under the names that the worker reads (tests/contract compares both)."""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..models import Weights
from ..names import (
    BASIC_MOUNT,
    CERTIFICATE_KEY,
    CERTIFICATE_MOUNT,
    HTTP_PORT,
    JWKS_KEY,
    JWKS_MOUNT,
    MANAGEMENT_PORT,
    MODEL_MOUNT,
    SIGNING_KEY,
    SIGNING_MOUNT,
)
from ..quantities import quantity
from ..spec import Auth, HubSource, RateLimit, ZImageService

HTPASSWD_FILE = f"{BASIC_MOUNT}/htpasswd"
JWKS_FILE = f"{JWKS_MOUNT}/{JWKS_KEY}"
SIGNING_FILE = f"{SIGNING_MOUNT}/{SIGNING_KEY}"
CERTIFICATE_FILE = f"{CERTIFICATE_MOUNT}/{CERTIFICATE_KEY}"


def config_map(service: ZImageService, values: dict[str, str]) -> Manifest:
    """Build the ConfigMap that the worker's environment comes from. Nothing in it is secret."""
    return manifest("v1", "ConfigMap", service, data=values)


def settings(service: ZImageService, model: Weights | None = None) -> dict[str, str]:
    """Give the worker's environment; units are in the names. `model`: what was fetched for it, if anything was."""
    spec, published = service.spec, service.spec.published
    limits = published.rate_limit if published else RateLimit()
    source = service.model.source
    path = (model.folder if model else "") if isinstance(source, HubSource) else source.path
    values: dict[str, object] = {
        "ZIMAGE_MODEL_PATH": f"{MODEL_MOUNT}/{path}" if path else MODEL_MOUNT,
        "ZIMAGE_PORT": HTTP_PORT,
        "ZIMAGE_MANAGEMENT_PORT": MANAGEMENT_PORT,
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
    values |= auth_settings(service.auth)
    if spec.gpu.count and spec.gpu.memory:
        # In bytes: of the forms of a quantity the worker reads only the usual ones.
        values["ZIMAGE_GPU_MEMORY"] = int(quantity(spec.gpu.memory))
    if model:
        values["ZIMAGE_MODEL_REVISION"] = model.revision
    if published:
        # The edge's own limit again: not every edge has one.
        values["ZIMAGE_MAX_BODY_BYTES"] = int(quantity(published.max_body_size))
    if service.tls_secret:
        values["ZIMAGE_CERTIFICATE_FILE"] = CERTIFICATE_FILE
    return {name: str(value) for name, value in values.items()}


def auth_settings(auth: Auth) -> dict[str, object]:
    """Give the worker's environment about who gets in."""
    values: dict[str, object] = {"ZIMAGE_AUTH_MODE": auth.in_force}
    if auth.basic:
        values["ZIMAGE_BASIC_FILE"] = HTPASSWD_FILE
    if auth.jwt:
        keys = {"ZIMAGE_JWT_JWKS_URL": auth.jwt.jwks.url} if auth.jwt.jwks.url else {"ZIMAGE_JWT_JWKS_FILE": JWKS_FILE}
        lists = {
            "ZIMAGE_JWT_AUDIENCES": ",".join(auth.jwt.audiences),
            "ZIMAGE_JWT_ALGORITHMS": ",".join(auth.jwt.algorithms),
            "ZIMAGE_JWT_REQUIRED_CLAIMS": ",".join(auth.jwt.required_claims),
        }
        values |= {"ZIMAGE_JWT_ISSUER": auth.jwt.issuer, "ZIMAGE_JWT_USERNAME_CLAIM": auth.jwt.username_claim, **keys}
        values |= {name: text for name, text in lists.items() if text}
    if auth.token and auth.token.enabled:
        values["ZIMAGE_TOKEN_SIGNING_KEY_FILE"] = SIGNING_FILE
        values["ZIMAGE_TOKEN_TTL_SECONDS"] = auth.token.ttl_seconds
    return values


def hosts(service: ZImageService) -> list[str]:
    """Give the names that the worker answers to: the published one first, which its certificate must cover."""
    name, namespace = service.name, service.namespace
    inside = [name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local"]
    return [service.spec.published.host, *inside] if service.spec.published else inside
