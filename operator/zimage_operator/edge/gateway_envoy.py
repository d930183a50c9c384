"""A Gateway of Envoy Gateway (1.9): policies beside the HTTPRoute, which refer to it by name; pure.

Its own Basic takes only {SHA} files, the weakest kind of htpasswd, and refuses bcrypt. So it asks the
worker who somebody is, in every mode. Policies that it cannot use are answered with 500; a route without
any would be open to the worker's own login, so they are applied before it.
"""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import HTTP_PORT, SIGN_IN
from ..spec import ZImageService
from .common import BODY, BURST, VERIFY, checked, published, ways
from .gateway import API as GATEWAY
from .gateway import http_route, timeouts

NAME = "gateway-envoy"
API = "gateway.envoyproxy.io/v1alpha1"
NOTE = ""
# One bucket for each client address. Envoy knows no burst: a minute's requests may come at once.
ADDRESSES = ("0.0.0.0/0", "::/0")


def left(_: ZImageService) -> list[str]:
    """It knows no burst, and its limit of bodies holds streams back."""
    return [BURST, BODY]


def lacks(_: ZImageService) -> str:
    """Nothing that is asked for is missing."""
    return ""


def helpers(service: ZImageService) -> list[Manifest]:
    """Build the policies of every route."""
    return [item for way in ways(service) for item in policies(service, way[0])]


def policies(service: ZImageService, name: str) -> list[Manifest]:
    """Build the policies of one route: who may come and who it is, then how often and how long."""
    target = {"group": GATEWAY, "kind": "HTTPRoute", "name": f"{service.name}-{name}" if name else service.name}
    spec = security(service, asks=name != SIGN_IN)
    secured = [manifest(API, "SecurityPolicy", service, name, spec={"targetRefs": [target], **spec})] if spec else []
    requests = {"requests": published(service).rate_limit.requests_per_minute, "unit": "Minute"}
    rules = [
        {"clientSelectors": [{"sourceCIDR": {"type": "Distinct", "value": every}}], "limit": requests}
        for every in ADDRESSES
    ]
    traffic = {
        "targetRefs": [target],
        "rateLimit": {"type": "Local", "local": {"rules": rules}},
        "timeout": {"http": {"requestTimeout": timeouts(service)["request"]}},
    }
    return [*secured, manifest(API, "BackendTrafficPolicy", service, name, spec=traffic)]


def security(service: ZImageService, *, asks: bool) -> Manifest:
    """Build who is let in; empty where everybody is."""
    spec: Manifest = {}
    if asks and checked(service):
        backend = {"group": "", "kind": "Service", "name": service.name, "port": HTTP_PORT}
        # Without the address all guesses would be one client's, and the first guesser would lock out everybody.
        told = {"headersToExtAuth": ["x-forwarded-for"], "http": {"backendRefs": [backend], "pathOverride": VERIFY}}
        # By itself it answers 403 while no worker is there to be asked, as if the password were the matter.
        spec["extAuth"] = {"failOpen": False, "statusOnError": 503, **told}
    if ranges := published(service).allowed_source_ranges:
        rule = {"action": "Allow", "principal": {"clientCIDRs": list(ranges)}}
        spec["authorization"] = {"defaultAction": "Deny", "rules": [rule]}
    return spec


def routes(service: ZImageService) -> list[Manifest]:
    """Build the HTTPRoute, and the one for POST /token."""
    return [http_route(service, way, timeouts=timeouts(service)) for way in ways(service)]
