"""What publishes a service, in the dialect of the cluster's edge; pure.

A dialect is a module. Which one is read from what belongs to the cluster's administrator: the
IngressClass's controller, or that of the Gateway's class. docs/edges.md says what each one gives.
"""

from __future__ import annotations

from typing import Protocol

from ..manifest import Manifest
from ..names import SAFE_NAMING, TRAEFIK_CONTROLLER
from ..spec import ZImageService
from . import f5_nginx, gateway, gateway_envoy, gateway_traefik, ingress_nginx, plain, traefik, traefik_safe


class Dialect(Protocol):
    """One way of telling an edge what protects a service."""

    NAME: str
    # What every user of this edge should know; empty if nothing.
    NOTE: str

    def helpers(self, service: ZImageService) -> list[Manifest]:
        """Give the objects that protect the route; they are applied before it."""

    def routes(self, service: ZImageService) -> list[Manifest]:
        """Give the objects that publish the service; the first bears its name."""

    def left(self, service: ZImageService) -> list[str]:
        """Name the fields that this edge does not see to, and the workers alone do."""

    def lacks(self, service: ZImageService) -> str:
        """Name a field that is written and that nobody would see to; empty if there is none."""


INGRESSES: dict[str, Dialect] = {
    TRAEFIK_CONTROLLER: traefik,
    f"{TRAEFIK_CONTROLLER}{SAFE_NAMING}": traefik_safe,
    "k8s.io/ingress-nginx": ingress_nginx,
    "nginx.org/ingress-controller": f5_nginx,
}
GATEWAYS: dict[str, Dialect] = {
    "traefik.io/gateway-controller": gateway_traefik,
    "gateway.envoyproxy.io/gatewayclass-controller": gateway_envoy,
}


def dialect(service: ZImageService, controller: str | None) -> Dialect | None:
    """Give the dialect of the controller behind the class that the service names; None where there is none."""
    if not service.spec.routed or not controller:
        return None
    return GATEWAYS.get(controller, gateway) if service.spec.gateway else INGRESSES.get(controller, plain)
