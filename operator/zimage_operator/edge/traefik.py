"""Traefik 3: Middlewares and a TLSOption around a plain Ingress; pure.

Source of the objects and of the hazards: Traefik's kubernetes-crd and kubernetes-ingress
reference. A Middleware or TLSOption that is missing makes Traefik answer 404: it fails closed.
"""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import SIGN_IN
from ..spec import ZImageService
from .common import BODY, TIMEOUT, checked, ingress, published, verify_address, ways

NAME = "traefik"
NOTE = ""
API = "traefik.io/v1alpha1"
ANNOTATION = "traefik.ingress.kubernetes.io/router"
# One year: the least that browsers' preload lists ask for.
HSTS_SECONDS = 31536000
AUTH = "auth"
# Above the length of any rule: a host has at most 253 characters.
FIRST_PRIORITY = "1000"
# /auth/verify answers a few hundred bytes; a larger answer counts as a refusal.
ANSWER_BYTES = 65536


def helpers(service: ZImageService) -> list[Manifest]:
    """Build the objects that protect the route, in the order in which a request meets them."""
    options = manifest(API, "TLSOption", service, "tls", spec={"minVersion": "VersionTLS12", "sniStrict": True})
    return [options, *middlewares(service)]


def middlewares(service: ZImageService) -> list[Manifest]:
    """Build the chain: who may come, how often, who it is, what the answer carries.

    The limiter stands before the password check: bcrypt is what an attacker would make us compute.
    """
    wanted = published(service)
    chain: list[Manifest] = []
    if wanted.allowed_source_ranges:
        ranges = {"sourceRange": list(wanted.allowed_source_ranges)}
        chain.append(middleware(service, "allow", {"ipAllowList": ranges}))
    limit = {
        "average": wanted.rate_limit.requests_per_minute,
        "period": "1m",
        "burst": wanted.rate_limit.burst,
    }
    chain.append(middleware(service, "rate-limit", {"rateLimit": limit}))
    if checked(service):
        chain.append(middleware(service, AUTH, authentication(service)))
    headers = {
        "stsSeconds": HSTS_SECONDS,
        "forceSTSHeader": True,
        "contentTypeNosniff": True,
        "frameDeny": True,
        "referrerPolicy": "no-referrer",
        # An empty value removes the header.
        "customResponseHeaders": {"Server": ""},
        "customRequestHeaders": {"X-Auth-User": ""},
    }
    chain.append(middleware(service, "headers", {"headers": headers}))
    return chain


def authentication(service: ZImageService) -> Manifest:
    """Build what asks for credentials. One Middleware for every mode, changed in place: no route is ever without.

    Passwords alone are checked here; wherever a token may come, the worker is asked.
    """
    if service.auth.in_force == "Basic" and not service.auth.tokens:
        # removeHeader stays off: the worker authenticates every request itself.
        return {"basicAuth": {"secret": service.basic_secret, "realm": "zimage", "removeHeader": False}}
    # Without a worker Traefik answers 500: closed. Nothing of the client but the credentials is passed on,
    # and nothing of the answer: the worker asks again.
    asked = {"address": verify_address(service), "trustForwardHeader": False, "authRequestHeaders": ["Authorization"]}
    return {"forwardAuth": {**asked, "maxResponseBodySize": ANSWER_BYTES}}


def middleware(service: ZImageService, name: str, spec: Manifest) -> Manifest:
    """Build one Middleware, called NAME-name."""
    return manifest(API, "Middleware", service, name, spec=spec)


def left(_: ZImageService) -> list[str]:
    """Its limit of bodies holds streams back, and it waits for an answer as long as the worker takes."""
    return [BODY, TIMEOUT]


def lacks(_: ZImageService) -> str:
    """Nothing that is asked for is missing."""
    return ""


def unasked(service: ZImageService) -> list[Manifest]:
    """Give the chain without the question for credentials, for POST /token."""
    return [item for item in middlewares(service) if item["metadata"]["name"] != f"{service.name}-{AUTH}"]


def routes(service: ZImageService) -> list[Manifest]:
    """Build the Ingress: one host, one path, one backend; and one for POST /token where that is on."""
    return [ingress(service, way, router(service, way[0])) for way in ways(service)]


def router(service: ZImageService, name: str, joint: str = "-") -> dict[str, str]:
    """Name the helpers as Traefik does: NAMESPACE-NAME@kubernetescrd; `joint`: what stands between the two."""
    chain = unasked(service) if name == SIGN_IN else middlewares(service)
    # By itself Traefik prefers the longer rule, and PathPrefix(`/`) is longer than Path(`/token`).
    first = {f"{ANNOTATION}.priority": FIRST_PRIORITY} if name == SIGN_IN else {}
    named = [f"{service.namespace}{joint}{item['metadata']['name']}@kubernetescrd" for item in chain]
    return {
        f"{ANNOTATION}.middlewares": ",".join(named),
        # A router with TLS alone: over plain HTTP there is nothing of this service.
        f"{ANNOTATION}.tls": "true",
        f"{ANNOTATION}.tls.options": f"{service.namespace}{joint}{service.name}-tls@kubernetescrd",
        **first,
    }
