"""The Gateway API: one HTTPRoute, and what the Gateway's own implementation adds to it; pure.

The API itself has no authentication, limits or ranges. Traefik takes its Middlewares as filters, Envoy
Gateway its policies beside the route; behind any other one the worker does all of it. Nothing crosses a
namespace but the reference to the Gateway, which the Gateway's own listener allows or not: no ReferenceGrant.
"""

from __future__ import annotations

from typing import Any

from ..manifest import Manifest, manifest
from ..names import HTTP_PORT
from ..spec import ZImageService
from .common import AUTH, BODY, RANGES, RATE, published

NAME = "gateway"
API = "gateway.networking.k8s.io"
NOTE = (
    "this Gateway's controller is not one whose protections the operator can write: strangers reach the worker's login"
)


def left(_: ZImageService) -> list[str]:
    """Nearly everything is the worker's; the timeout is the route's own."""
    return [AUTH, RATE, BODY]


def lacks(service: ZImageService) -> str:
    """Name what is asked for and nobody could give: the worker does not know ranges."""
    return RANGES if published(service).allowed_source_ranges else ""


def helpers(_: ZImageService) -> list[Manifest]:
    """No objects."""
    return []


def routes(service: ZImageService) -> list[Manifest]:
    """Build the HTTPRoute. One is enough: no path has protections of its own."""
    return [http_route(service, ("", "/", "Prefix"), timeouts=timeouts(service))]


def timeouts(service: ZImageService) -> Manifest:
    """Give how long a request may take from its first byte to its last."""
    return {"request": f"{published(service).read_timeout_seconds}s"}


def http_route(service: ZImageService, way: tuple[str, str, str], **rule: Any) -> Manifest:
    """Build an HTTPRoute with one rule: one host, one path, one backend; `rule` adds filters and timeouts.

    Every default is written down: what the API server would add itself is the same everywhere.
    """
    gateway, (name, where, match) = service.spec.gateway, way
    assert gateway, "only services with a gateway get here"
    parent = {
        "group": API,
        "kind": "Gateway",
        "name": gateway.parent_ref.name,
        "namespace": gateway.parent_ref.namespace or service.namespace,
        "sectionName": gateway.parent_ref.section_name,
    }
    path = {"type": "PathPrefix" if match == "Prefix" else match, "value": where}
    backend = {"group": "", "kind": "Service", "name": service.name, "port": HTTP_PORT, "weight": 1}
    spec = {
        "parentRefs": [parent],
        "hostnames": [gateway.host],
        "rules": [{"matches": [{"path": path}], **rule, "backendRefs": [backend]}],
    }
    return manifest(f"{API}/v1", "HTTPRoute", service, name, spec=spec)
