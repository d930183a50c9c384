"""F5 NGINX Ingress Controller, open-source edition (5.5 and newer): annotations and Policies; pure.

Source: the vendor's annotation reference and its Policy resource (k8s.nginx.org/v1). Its Basic wants a
Secret of a type of its own, which nobody's htpasswd Secret has, and its JWT is NGINX Plus: so it asks
the worker, by external authentication, which answers 500 when it can ask nobody.
"""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import HTTP_PORT
from ..spec import ZImageService
from .common import AUTH, VERIFY, body_bytes, checked, ingress, published

NAME = "f5-nginx"
API = "k8s.nginx.org/v1"
PREFIX = "nginx.org/"
NOTE = ""


def asks(service: ZImageService) -> bool:
    """Whether the edge asks for credentials.

    Not where POST /token is served: two Ingresses of one host are a collision here, so no path can go unasked.
    """
    return checked(service) and not service.auth.tokens


def left(service: ZImageService) -> list[str]:
    """The question for credentials where POST /token is served."""
    return [AUTH] if checked(service) and not asks(service) else []


def lacks(_: ZImageService) -> str:
    """Nothing that is asked for is missing."""
    return ""


def helpers(service: ZImageService) -> list[Manifest]:
    """Build the Policies that the Ingress names; one that is missing is answered with 500."""
    ranges, items = published(service).allowed_source_ranges, []
    if ranges:
        items.append(policy(service, "allow", {"accessControl": {"allow": list(ranges)}}))
    if asks(service):
        worker = {"authServiceName": f"{service.namespace}/{service.name}", "authServicePorts": [HTTP_PORT]}
        items.append(policy(service, "auth", {"externalAuth": {"authURI": VERIFY, **worker}}))
    return items


def policy(service: ZImageService, name: str, spec: Manifest) -> Manifest:
    """Build one Policy, called NAME-name."""
    return manifest(API, "Policy", service, name, spec=spec)


def routes(service: ZImageService) -> list[Manifest]:
    """Build the Ingress."""
    return [ingress(service, ("", "/", "Prefix"), protections(service))]


def protections(service: ZImageService) -> dict[str, str]:
    """Give what stands between a client and the worker."""
    wanted = published(service)
    values = {
        "ssl-redirect": "true",
        "http-redirect-code": "308",
        "server-tokens": "False",
        "limit-req-rate": f"{wanted.rate_limit.requests_per_minute}r/m",
        "limit-req-key": "${binary_remote_addr}",
        # 10 MB hold 160,000 addresses (nginx: 64 bytes each).
        "limit-req-zone-size": "10M",
        "limit-req-burst": str(wanted.rate_limit.burst),
        "limit-req-no-delay": "true",
        "limit-req-reject-code": "429",
        "client-max-body-size": str(body_bytes(service)),
        "proxy-read-timeout": f"{wanted.read_timeout_seconds}s",
        # A stream arrives event by event.
        "proxy-buffering": "False",
    }
    if named := [f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in helpers(service)]:
        values["policies"] = ",".join(named)
    return {f"{PREFIX}{name}": value for name, value in values.items()}
