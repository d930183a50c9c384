"""What the dialects share: the plain Ingress, and the worker's answer to who somebody is; pure."""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import HTTP_PORT, HTTP_PORT_NAME, SIGN_IN
from ..quantities import quantity
from ..spec import Gateway, Ingress, ZImageService

# What an edge can be asked for, under the names of the resource's fields.
AUTH, RANGES, RATE = "auth", "allowedSourceRanges", "rateLimit"
BURST, BODY, TIMEOUT = "rateLimit.burst", "maxBodySize", "readTimeoutSeconds"
# Who somebody is: 200 or 401, of the worker (docs/decisions/0112-auth-verify.md).
VERIFY = "/auth/verify"


def published(service: ZImageService) -> Ingress | Gateway:
    """Give what is published; only services that have one get here."""
    assert service.spec.published
    return service.spec.published


def checked(service: ZImageService) -> bool:
    """Whether anybody has to sign in."""
    return service.auth.in_force != "None"


def verify_address(service: ZImageService) -> str:
    """Give the address at which an edge asks the worker who somebody is."""
    return f"http://{service.name}.{service.namespace}.svc:{HTTP_PORT}{VERIFY}"


def body_bytes(service: ZImageService) -> int:
    """Give the largest body."""
    return int(quantity(published(service).max_body_size))


def ways(service: ZImageService) -> list[tuple[str, str, str]]:
    """Give name, path and match of every route: one for everything, and one for POST /token where that is on.

    /token is where a password is shown, in a form that no edge can read: it has every other
    protection, and the worker's own check.
    """
    everything = ("", "/", "Prefix")
    return [everything, (SIGN_IN, "/token", "Exact")] if service.auth.tokens else [everything]


def ingress(service: ZImageService, way: tuple[str, str, str], annotations: dict[str, str]) -> Manifest:
    """Build an Ingress: one host, one path, one backend."""
    wanted, (name, where, match) = service.spec.ingress, way
    assert wanted, "only services with an ingress get here"
    backend = {"service": {"name": service.name, "port": {"name": HTTP_PORT_NAME}}}
    item = manifest(
        "networking.k8s.io/v1",
        "Ingress",
        service,
        name,
        spec={
            "ingressClassName": wanted.class_name,
            "tls": [{"hosts": [wanted.host], "secretName": service.tls_secret}],
            "rules": [
                {"host": wanted.host, "http": {"paths": [{"path": where, "pathType": match, "backend": backend}]}}
            ],
        },
    )
    if annotations:
        item["metadata"]["annotations"] = annotations
    return item
