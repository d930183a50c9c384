"""What this operator lets the authors of resources ask for: upper bounds that its administrator sets; pure.

A resource can only narrow. The API server cannot know these bounds, so a resource that breaks one is
stored and refused in its status (Stalled, NotAllowed), and its children stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import assert_never

from .errors import NotAllowed
from .spec import HUB, ClaimSource, HubSource, ImageSource, ZImageService


@dataclass(frozen=True)
class Bounds:
    """The settings ZIMAGE_OPERATOR_ALLOWED_* and their like; what is empty is not bounded."""

    # Registries, or repositories and what lies below them, that `spec.image` may name.
    image_prefixes: tuple[str, ...] = ()
    # Whether `spec.image` must name a digest.
    image_digest: bool = False
    # Whether workers may fetch an issuer's keys, and so open connections. The one bound that is on by default.
    jwks_url: bool = False
    # Namespace ("" is any) and the host that may be published from there; `.example.org` is every host below it.
    hosts: tuple[tuple[str, str], ...] = ()
    # Namespaces that `network.allowedNamespaces` may admit.
    client_namespaces: tuple[str, ...] = ()
    # Label and value: `network.allowedNamespaceLabels` must hold one of these. Empty is not bounded only where
    # `client_namespaces` is empty too: a label would get round the names.
    client_labels: tuple[tuple[str, str], ...] = ()
    # Origins of models, as `origin` writes them; one that ends in * means what begins so.
    models: tuple[str, ...] = ()
    priority_classes: tuple[str, ...] = ()


def check(service: ZImageService, bounds: Bounds) -> None:
    """Hold a resource against the bounds.

    Raises:
        NotAllowed: one line per bound that it breaks: the field, and what to write instead.
    """
    broken = [line for rule in RULES for line in rule(service, bounds)]
    if broken:
        raise NotAllowed("\n".join(broken))


Rule = Callable[[ZImageService, Bounds], Iterator[str]]


def image(service: ZImageService, bounds: Bounds) -> Iterator[str]:
    """Where the worker's image comes from, and whether it can be exchanged behind its name."""
    found = service.spec.image
    if found and bounds.image_prefixes and not any(below(prefix, found.repository) for prefix in bounds.image_prefixes):
        allowed = " or ".join(bounds.image_prefixes)
        yield f"spec.image.repository: this cluster's operator allows images from {allowed} only"
    if found and bounds.image_digest and not found.digest:
        text = "this cluster's operator takes images by digest only (ZIMAGE_OPERATOR_REQUIRE_IMAGE_DIGEST)"
        yield f"spec.image.digest: {text}: write digest: sha256:… in place of tag"


def below(prefix: str, repository: str) -> bool:
    """Whether a repository is `prefix` or lies below it; registry.example.org.evil.org does not."""
    whole = prefix.rstrip("/")
    return repository == whole or repository.startswith(f"{whole}/")


def keys_by_address(service: ZImageService, bounds: Bounds) -> Iterator[str]:
    """Whether the workers get a way out."""
    if service.auth.jwt and service.auth.jwt.jwks.url and not bounds.jwks_url:
        yield (
            "spec.auth.jwt.jwks.url: this cluster's operator lets no worker open connections "
            "(ZIMAGE_OPERATOR_ALLOW_JWKS_URL): write jwks.secretName or jwks.configMapName"
        )


def host(service: ZImageService, bounds: Bounds) -> Iterator[str]:
    """Under which hosts a namespace may publish: nobody takes the name of another team."""
    if not bounds.hosts or not service.spec.published:
        return
    allowed = [name for place, name in bounds.hosts if place in ("", service.namespace)]
    asked = service.spec.published.host
    if any(asked == name or (name.startswith(".") and asked.endswith(name)) for name in allowed):
        return
    way = "gateway" if service.spec.gateway else "ingress"
    where = f"spec.{way}.host: this cluster's operator publishes namespace {service.namespace}"
    setting = "ZIMAGE_OPERATOR_ALLOWED_HOSTS"
    if allowed:
        shown = " or ".join(f"NAME{name}" if name.startswith(".") else name for name in allowed)
        yield f"{where} under {shown} only ({setting}): write such a host"
    else:
        yield f"{where} under no host: remove spec.{way}, or ask the cluster's administrator for one in {setting}"


def client_namespaces(service: ZImageService, bounds: Bounds) -> Iterator[str]:
    """Whom a resource may let in at all."""
    excess = [name for name in service.spec.network.client_namespaces if name not in bounds.client_namespaces]
    if bounds.client_namespaces and excess:
        text = f"this cluster's operator does not admit {', '.join(excess)} (ZIMAGE_OPERATOR_ALLOWED_CLIENT_NAMESPACES)"
        yield f"spec.network.allowedNamespaces: {text}: write some of [{', '.join(bounds.client_namespaces)}]"


def client_labels(service: ZImageService, bounds: Bounds) -> Iterator[str]:
    """By which labels a resource may let namespaces in; more labels beside a listed one only narrow."""
    asked = service.spec.network.allowed_namespace_labels
    if not asked or not (bounds.client_namespaces or bounds.client_labels):
        return
    if any(asked.get(key) == value for key, value in bounds.client_labels):
        return
    setting = "ZIMAGE_OPERATOR_ALLOWED_CLIENT_NAMESPACE_LABELS"
    where = "spec.network.allowedNamespaceLabels: this cluster's operator admits namespaces"
    if bounds.client_labels:
        shown = " or ".join(f"{key}: {value}" for key, value in bounds.client_labels)
        yield f"{where} labelled {shown} only ({setting}): write that label, beside others if you like"
    else:
        yield f"{where} by name only: write some of [{', '.join(bounds.client_namespaces)}] in allowedNamespaces"


def model(service: ZImageService, bounds: Bounds) -> Iterator[str]:
    """Which weights may run: they are as good as code."""
    found = origin(service.model.source)
    if bounds.models and not any(covers(pattern, found) for pattern in bounds.models):
        text = f"this cluster's operator allows {' or '.join(bounds.models)} only (ZIMAGE_OPERATOR_ALLOWED_MODELS)"
        yield f"spec.model: {text}: write one of these instead of {found}"


def origin(source: HubSource | ClaimSource | ImageSource) -> str:
    """Say where weights come from as ALLOWED_MODELS names it: the field of spec.model, a colon, and what is there."""
    match source:
        case HubSource():
            # With the hub: its own checksums are what a download is held against.
            return f"huggingFace:{source.endpoint or HUB}/{source.repo}@{source.revision}"
        case ClaimSource():
            return f"persistentVolumeClaim:{source.claim_name}"
        case ImageSource():
            return f"image:{source.reference}"
    # A new source is one more line above, and mypy asks for it.
    assert_never(source)


def covers(pattern: str, text: str) -> bool:
    """Whether a pattern means `text`: a star at its end is anything."""
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def priority(service: ZImageService, bounds: Bounds) -> Iterator[str]:
    """Whose pods may push others from their GPUs."""
    found = service.spec.scheduling.priority_class_name
    if found and bounds.priority_classes and found not in bounds.priority_classes:
        allowed = " or ".join(bounds.priority_classes)
        text = f"this cluster's operator allows {allowed} only (ZIMAGE_OPERATOR_ALLOWED_PRIORITY_CLASSES)"
        yield f"spec.scheduling.priorityClassName: {text}: write one of these, or leave it out"


RULES: tuple[Rule, ...] = (image, keys_by_address, host, client_namespaces, client_labels, model, priority)
