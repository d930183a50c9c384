"""Any other ingress controller: TLS and routing, which every one gives; pure.

The worker authenticates and limits, as it does behind every edge. What only an edge could give is
refused rather than left out.
"""

from __future__ import annotations

from ..manifest import Manifest
from ..spec import ZImageService
from .common import AUTH, BODY, RANGES, RATE, TIMEOUT, ingress, published

NAME = "plain"
NOTE = "this class's controller is not one whose protections the operator can write: strangers reach the worker's login"


def left(_: ZImageService) -> list[str]:
    """Nearly everything is the worker's here."""
    return [AUTH, RATE, BODY, TIMEOUT]


def lacks(service: ZImageService) -> str:
    """Name what is asked for and nobody could give: the worker does not know ranges."""
    return RANGES if published(service).allowed_source_ranges else ""


def helpers(_: ZImageService) -> list[Manifest]:
    """No objects."""
    return []


def routes(service: ZImageService) -> list[Manifest]:
    """Build the Ingress. One is enough: no path has protections of its own."""
    return [ingress(service, ("", "/", "Prefix"), {})]
