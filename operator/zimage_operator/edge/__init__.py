"""What publishes a service, in the dialect of the cluster's ingress controller; pure.

A dialect is a module with `helpers(service)`, which must stand first, and `routes(service)`.
"""

from __future__ import annotations

from typing import Protocol

from ..manifest import Manifest
from ..spec import ZImageService
from . import traefik


class Dialect(Protocol):
    """One way of telling an edge what protects a service."""

    NAME: str

    def helpers(self, service: ZImageService) -> list[Manifest]:
        """Give the objects that protect the route; they are applied before it."""

    def routes(self, service: ZImageService) -> list[Manifest]:
        """Give the objects that publish the service; the first bears its name."""


# By `spec.controller` of the IngressClass, which belongs to the cluster's administrator.
DIALECTS: dict[str, Dialect] = {"traefik.io/ingress-controller": traefik}


def dialect(controller: str | None) -> Dialect | None:
    """Give the dialect of an IngressClass's controller; None where we do not speak it."""
    return DIALECTS.get(controller or "")
