"""A Gateway of Traefik: the same Middlewares as before an Ingress, as filters of the HTTPRoute; pure.

Tested with the real one. TLS 1.2 is the least it speaks by itself; a stricter TLSOption belongs to the
Gateway's administrator. A Middleware that is missing makes Traefik answer 500: it fails closed.
"""

from __future__ import annotations

from ..manifest import Manifest
from ..names import SIGN_IN
from ..spec import ZImageService
from . import traefik
from .common import ways
from .gateway import http_route

NAME = "gateway-traefik"
NOTE = ""
left, lacks, helpers = traefik.left, traefik.lacks, traefik.middlewares


def routes(service: ZImageService) -> list[Manifest]:
    """Build the HTTPRoute, and the one for POST /token: the longer path goes first by the API's own rule."""
    return [http_route(service, way, filters=filters(service, way[0])) for way in ways(service)]


def filters(service: ZImageService, name: str) -> list[Manifest]:
    """Name the Middlewares in the order in which a request meets them."""
    chain = traefik.unasked(service) if name == SIGN_IN else traefik.middlewares(service)
    group = traefik.API.partition("/")[0]
    references = ({"group": group, "kind": "Middleware", "name": item["metadata"]["name"]} for item in chain)
    return [{"type": "ExtensionRef", "extensionRef": one} for one in references]
