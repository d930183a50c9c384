"""Traefik with providers.kubernetesCRD.safeNaming: the same objects, named with an underscore; pure.

Under the other naming Traefik finds no Middleware of that name and answers 404: it fails closed either way.
"""

from __future__ import annotations

from ..manifest import Manifest
from ..spec import ZImageService
from . import traefik
from .common import ingress, ways

NAME, NOTE = traefik.NAME, traefik.NOTE
left, lacks, helpers = traefik.left, traefik.lacks, traefik.helpers


def routes(service: ZImageService) -> list[Manifest]:
    """Build the Ingress, and the one for POST /token."""
    return [ingress(service, way, traefik.router(service, way[0], "_")) for way in ways(service)]
