"""Traefik 3: Middlewares and a TLSOption around a plain Ingress; pure.

Source of the objects and of the hazards: Traefik's kubernetes-crd and kubernetes-ingress
reference. A Middleware or TLSOption that is missing makes Traefik answer 404: it fails closed.
"""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import HTTP_PORT, HTTP_PORT_NAME, SIGN_IN
from ..spec import Ingress, ZImageService

NAME = "traefik"
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
    ingress = published(service)
    chain: list[Manifest] = []
    if ingress.allowed_source_ranges:
        ranges = {"sourceRange": list(ingress.allowed_source_ranges)}
        chain.append(middleware(service, "allow", {"ipAllowList": ranges}))
    limit = {
        "average": ingress.rate_limit.requests_per_minute,
        "period": "1m",
        "burst": ingress.rate_limit.burst,
    }
    chain.append(middleware(service, "rate-limit", {"rateLimit": limit}))
    if service.auth.in_force != "None":
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
    address = f"http://{service.name}.{service.namespace}.svc:{HTTP_PORT}/auth/verify"
    asked = {"address": address, "trustForwardHeader": False, "authRequestHeaders": ["Authorization"]}
    return {"forwardAuth": {**asked, "maxResponseBodySize": ANSWER_BYTES}}


def middleware(service: ZImageService, name: str, spec: Manifest) -> Manifest:
    """Build one Middleware, called NAME-name."""
    return manifest(API, "Middleware", service, name, spec=spec)


def published(service: ZImageService) -> Ingress:
    """Give the ingress part; only services that have one get here."""
    assert service.spec.ingress
    return service.spec.ingress


def routes(service: ZImageService) -> list[Manifest]:
    """Build the Ingress: one host, one path, one backend; and one for POST /token where that is on.

    /token is where a password is shown, in a form that no edge can read: it has every other
    protection, and the worker's own check.
    """
    chain = middlewares(service)
    items = [route(service, "", "/", "Prefix", chain)]
    if service.auth.tokens:
        unasked = [item for item in chain if item["metadata"]["name"] != f"{service.name}-{AUTH}"]
        token = route(service, SIGN_IN, "/token", "Exact", unasked)
        # By itself Traefik prefers the longer rule, and PathPrefix(`/`) is longer than Path(`/token`).
        token["metadata"]["annotations"][f"{ANNOTATION}.priority"] = FIRST_PRIORITY
        items.append(token)
    return items


def route(service: ZImageService, name: str, where: str, match: str, chain: list[Manifest]) -> Manifest:
    """Build one Ingress with one path, behind `chain`."""
    ingress = published(service)
    assert ingress.tls, "rules let no ingress without TLS pass"
    backend = {"service": {"name": service.name, "port": {"name": HTTP_PORT_NAME}}}
    path = {"path": where, "pathType": match, "backend": backend}
    item = manifest(
        "networking.k8s.io/v1",
        "Ingress",
        service,
        name,
        spec={
            "ingressClassName": ingress.class_name,
            "tls": [{"hosts": [ingress.host], "secretName": ingress.tls.secret_name}],
            "rules": [{"host": ingress.host, "http": {"paths": [path]}}],
        },
    )
    item["metadata"]["annotations"] = router(service, chain)
    return item


def router(service: ZImageService, chain: list[Manifest]) -> dict[str, str]:
    """Name the helpers as Traefik does: NAMESPACE-NAME@kubernetescrd."""
    return {
        f"{ANNOTATION}.middlewares": ",".join(reference(item) for item in chain),
        # A router with TLS alone: over plain HTTP there is nothing of this service.
        f"{ANNOTATION}.tls": "true",
        f"{ANNOTATION}.tls.options": f"{service.namespace}-{service.name}-tls@kubernetescrd",
    }


def reference(item: Manifest) -> str:
    """Give the name by which a router refers to a custom resource."""
    return f"{item['metadata']['namespace']}-{item['metadata']['name']}@kubernetescrd"
