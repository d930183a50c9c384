"""kubernetes/ingress-nginx, which is no longer maintained, and what speaks its annotations; pure.

Source of the annotations: its documented list (docs/user-guide/nginx-configuration/annotations.md of
v1.15) and Traefik's kubernetesIngressNGINX provider, where the same ones are tested with real requests.
No snippet is ever written, and nothing of the resource but hosts, ranges and numbers.
"""

from __future__ import annotations

from math import ceil

from ..manifest import Manifest
from ..names import SIGN_IN
from ..spec import ZImageService
from .common import BURST, body_bytes, checked, ingress, published, verify_address, ways

NAME = "ingress-nginx"
PREFIX = "nginx.ingress.kubernetes.io/"
NOTE = (
    "ingress-nginx has had no fixes since March 2026: move to a class of Traefik (traefik.io/ingress-controller) or of "
    "F5 NGINX (nginx.org/ingress-controller), or write spec.gateway; the resource's other fields stay as they are"
)


def left(_: ZImageService) -> list[str]:
    """A burst is given here only in whole multiples of the rate."""
    return [BURST]


def lacks(_: ZImageService) -> str:
    """Nothing that is asked for is missing."""
    return ""


def helpers(_: ZImageService) -> list[Manifest]:
    """No objects: all of it is annotations."""
    return []


def routes(service: ZImageService) -> list[Manifest]:
    """Build the Ingress, and the one for POST /token."""
    return [ingress(service, way, protections(service, asks=way[0] != SIGN_IN)) for way in ways(service)]


def protections(service: ZImageService, *, asks: bool) -> dict[str, str]:
    """Give what stands between a client and the worker; `asks`: for credentials too."""
    wanted = published(service)
    rate = wanted.rate_limit
    values = {
        "force-ssl-redirect": "true",
        "limit-rpm": str(rate.requests_per_minute),
        # Whole multiples of the rate alone; without it the burst is five times the rate.
        "limit-burst-multiplier": str(ceil(rate.burst / rate.requests_per_minute)),
        "proxy-body-size": str(body_bytes(service)),
        # Traefik's provider reads the size only with it; ingress-nginx buffers requests by itself.
        "proxy-request-buffering": "on",
        # A stream arrives event by event.
        "proxy-buffering": "off",
        "proxy-read-timeout": str(wanted.read_timeout_seconds),
    }
    if wanted.allowed_source_ranges:
        values["whitelist-source-range"] = ",".join(wanted.allowed_source_ranges)
    if asks and checked(service):
        # Passwords too: behind `auth-type: basic` Traefik's provider keeps them from the worker, who checks again.
        values |= {"auth-url": verify_address(service), "auth-method": "GET"}
    return {f"{PREFIX}{name}": value for name, value in values.items()}
