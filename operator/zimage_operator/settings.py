"""The operator's own settings, read once from the environment (names: docs/reference/operator-settings.md)."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__
from .bounds import Bounds
from .errors import BadSettings
from .spec import LABEL, LABEL_KEY, LABEL_VALUE, SUBDOMAIN, Model

PREFIX = "ZIMAGE_OPERATOR_"
POD_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_NAMESPACE = "zimage-system"
# Moves with the release.
RELEASED_WORKER = f"ghcr.io/zimage-dev/zimage-worker:{__version__}"
LEVELS = ("debug", "info", "warning", "error")
POLICIES = ("OnSpecChange", "Auto")
PROBE_SECONDS_IN_CLUSTER = 300
# The sources that a model can come from, by the names of their fields.
SOURCES = tuple(str(field.alias) for name, field in Model.model_fields.items() if name != "storage")

HTTPS_PORT = 443


@dataclass(frozen=True)
class Edge:
    """How the operator reaches the edge: by each host's own name (no `address`), or at one address for all."""

    enabled: bool = False
    address: str = ""
    port: int = HTTPS_PORT


@dataclass(frozen=True)
class Settings:
    """What one operator process is told."""

    namespace: str
    watch_namespaces: tuple[str, ...]
    worker_image: str
    # What becomes of running workers whose template a newer operator would build otherwise.
    update_policy: str
    # What authors of resources may ask for.
    bounds: Bounds
    # Whether services get PodMonitors unasked, and the labels of all PodMonitors.
    pod_monitors: bool
    pod_monitor_labels: tuple[tuple[str, str], ...]
    # IngressClasses by name with their controllers, for an operator that may not look them up.
    ingress_classes: Mapping[str, str]
    # Seconds between two looks at the same pod; 0: no probes at all.
    probe_interval_seconds: int
    # How the edge is reached to ask it as a stranger would; off by default.
    edge: Edge
    port: int
    leader_election: bool
    log_level: str
    log_format: str


class Reader:
    """Reads variables and collects one line per mistake instead of stopping at the first."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.problems: list[str] = []

    def get(self, name: str, default: str, convert: Callable[[str], Any], advice: str) -> Any:
        """Give the converted value of ZIMAGE_OPERATOR_`name`."""
        text = self.environment.get(PREFIX + name) or default
        try:
            return convert(text)
        except ValueError:
            self.problems.append(f"{PREFIX}{name}: {text!r} will not do: {advice}")
            return convert(default)


def read(environment: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises:
        BadSettings: one line per mistake: the variable, its value, what to write.
    """
    outside = bool(environment.get("KUBECONFIG"))
    reader = Reader(environment)
    interval = "0" if outside else str(PROBE_SECONDS_IN_CLUSTER)
    settings = Settings(
        namespace=reader.get("NAMESPACE", own_namespace(outside), namespace, "write the name of a namespace"),
        watch_namespaces=reader.get(
            "WATCH_NAMESPACES", "", namespaces, "write names of namespaces, with commas between"
        ),
        worker_image=reader.get(
            "WORKER_IMAGE", RELEASED_WORKER, image, "write an image with a tag or, better, a digest"
        ),
        update_policy=reader.get(
            "UPDATE_POLICY", "OnSpecChange", one_of(*POLICIES), f"write one of {', '.join(POLICIES)}"
        ),
        bounds=upper_bounds(reader),
        pod_monitors=reader.get("POD_MONITORS", "true", boolean, "write true or false"),
        pod_monitor_labels=reader.get(
            "POD_MONITOR_LABELS", "", label_pairs, "write LABEL=VALUE, with commas between: release=prometheus"
        ),
        ingress_classes=reader.get(
            "INGRESS_CLASSES",
            "",
            pairs,
            "write name=controller, with commas between: traefik=traefik.io/ingress-controller",
        ),
        probe_interval_seconds=reader.get(
            "PROBE_INTERVAL_SECONDS", interval, number(0, 86400), "write seconds, 0 to 86400"
        ),
        edge=reader.get(
            "EDGE_PROBE",
            "off",
            edge,
            "write off, dns (the host's own name leads from the operator to the edge), or the edge's HOST:PORT",
        ),
        port=reader.get("PORT", "8080", number(1, 65535), "write a port, 1 to 65535"),
        leader_election=reader.get("LEADER_ELECTION", "true", boolean, "write true or false"),
        log_level=reader.get("LOG_LEVEL", "info", one_of(*LEVELS), f"write one of {', '.join(LEVELS)}"),
        log_format=reader.get(
            "LOG_FORMAT",
            "text" if sys.stderr.isatty() else "json",
            one_of("text", "json"),
            "write text or json",
        ),
    )
    if settings.bounds.image_digest and "@sha256:" not in settings.worker_image:
        text = f"{PREFIX}WORKER_IMAGE: {settings.worker_image!r} will not do: write it by digest"
        reader.problems.append(f"{text}, as {PREFIX}REQUIRE_IMAGE_DIGEST asks of every image")
    if reader.problems:
        raise BadSettings(reader.problems)
    return settings


def upper_bounds(reader: Reader) -> Bounds:
    """Read what authors of resources may ask for."""
    names, listed = "write names of namespaces, with commas between", "with commas between"
    example = ".example.org, team-a=.a.example.org, team-b=b.example.org"
    return Bounds(
        image_prefixes=reader.get("ALLOWED_IMAGE_PREFIXES", "", words, f"write registries, {listed}"),
        image_digest=reader.get("REQUIRE_IMAGE_DIGEST", "false", boolean, "write true or false"),
        jwks_url=reader.get("ALLOW_JWKS_URL", "false", boolean, "write true or false"),
        hosts=reader.get(
            "ALLOWED_HOSTS", "", hosts, f"write [NAMESPACE=]HOST or [NAMESPACE=].DOMAIN, {listed}: {example}"
        ),
        client_namespaces=reader.get("ALLOWED_CLIENT_NAMESPACES", "", namespaces, names),
        client_labels=reader.get(
            "ALLOWED_CLIENT_NAMESPACE_LABELS", "", label_pairs, f"write LABEL=VALUE, {listed}: name=dmz"
        ),
        models=reader.get(
            "ALLOWED_MODELS",
            "",
            models,
            f"write {', '.join(f'{source}:NAME' for source in SOURCES)}, {listed}; a * at the end is anything",
        ),
        priority_classes=reader.get("ALLOWED_PRIORITY_CLASSES", "", names_of, f"write names, {listed}"),
    )


def own_namespace(outside: bool) -> str:
    """Give the pod's own namespace, or the usual one where there is no pod."""
    if not outside and POD_NAMESPACE_FILE.exists():
        return POD_NAMESPACE_FILE.read_text().strip()
    return DEFAULT_NAMESPACE


def namespace(text: str) -> str:
    """Check one name."""
    if not re.fullmatch(LABEL, text):
        raise ValueError(text)
    return text


def words(text: str) -> tuple[str, ...]:
    """Split a list at its commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def pairs(text: str) -> dict[str, str]:
    """Split a list of name=value."""
    found = dict(part.split("=", 1) for part in words(text))
    if not all(re.fullmatch(SUBDOMAIN, name) and value for name, value in found.items()):
        raise ValueError(text)
    return found


def label_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Split a list of label=value."""
    found = []
    for part in words(text):
        key, equals, value = part.partition("=")
        if not (equals and re.fullmatch(LABEL_KEY, key) and re.fullmatch(LABEL_VALUE, value)):
            raise ValueError(text)
        found.append((key, value))
    return tuple(found)


def hosts(text: str) -> tuple[tuple[str, str], ...]:
    """Read hosts, and whose they are: any namespace's, or that of the one before the `=`."""
    found = []
    for part in words(text):
        place, equals, name = part.rpartition("=")
        if not re.fullmatch(SUBDOMAIN, name.removeprefix(".")) or (equals and not re.fullmatch(LABEL, place)):
            raise ValueError(text)
        found.append((place, name))
    return tuple(found)


def models(text: str) -> tuple[str, ...]:
    """Check a list of origins of models (bounds.py)."""
    found = words(text)
    if not all(re.fullmatch(rf"({'|'.join(SOURCES)}):[^*\s]*\*?", part) for part in found):
        raise ValueError(text)
    return found


def names_of(text: str) -> tuple[str, ...]:
    """Check a list of names of objects."""
    found = words(text)
    if not all(re.fullmatch(SUBDOMAIN, part) for part in found):
        raise ValueError(text)
    return found


def namespaces(text: str) -> tuple[str, ...]:
    """Check a list of names."""
    return tuple(namespace(part) for part in words(text))


def image(text: str) -> str:
    """Check that an image says which one it is."""
    if not re.fullmatch(r"[\w./:-]+(:[\w.-]+|@sha256:[0-9a-f]{64})", text):
        raise ValueError(text)
    return text


def edge(text: str) -> Edge:
    """Read how the edge is reached: off, dns, or HOST:PORT (an IPv6 address in brackets)."""
    if text in ("off", "dns"):
        return Edge(enabled=text == "dns")
    found = re.fullmatch(rf"(?P<name>{SUBDOMAIN}|\[[0-9a-f:]+\]):(?P<port>\d+)", text)
    if not found:
        raise ValueError(text)
    return Edge(True, found["name"].strip("[]"), number(1, 65535)(found["port"]))


def number(low: int, high: int) -> Callable[[str], int]:
    """Build the check for a whole number within bounds."""

    def convert(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return convert


def boolean(text: str) -> bool:
    """Check a truth value."""
    return {"true": True, "false": False}[one_of("true", "false")(text.lower())]


def one_of(*allowed: str) -> Callable[[str], str]:
    """Build the check for a word of a list."""

    def convert(text: str) -> str:
        if text not in allowed:
            raise ValueError(text)
        return text

    return convert
