"""What every desired object has in common: head, labels, owner; pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from .bounds import Bounds
from .names import API_VERSION, HASH_ANNOTATION, KIND, labels
from .spec import ZImageService

Manifest = dict[str, Any]


# Namespace and name of a ZImageService.
Key = tuple[str, str]


@dataclass(frozen=True)
class Environment:
    """What the operator's own settings add to a service."""

    # The released worker, by digest, for services that name no image of their own.
    worker_image: str
    # Whose pods the management port admits.
    operator_namespace: str
    # What earlier operators of this installation started workers with, newest first (history.py).
    former_worker_images: tuple[str, ...] = ()
    # OnSpecChange: a newer template waits for a change of the spec; Auto: it rolls at once.
    update_policy: str = "OnSpecChange"
    # Whether services that do not say so get a PodMonitor where the cluster knows the kind, and what each carries:
    # many a Prometheus looks at those of its own label only.
    pod_monitors: bool = True
    pod_monitor_labels: tuple[tuple[str, str], ...] = ()
    # What authors of resources may ask for.
    bounds: Bounds = field(default_factory=Bounds)


class Ref(NamedTuple):
    """One object of the cluster by kind, namespace and name."""

    kind: str
    namespace: str
    name: str


def manifest(
    api_version: str, kind: str, service: ZImageService, name: str = "", component: str = "worker", **body: Any
) -> Manifest:
    """Build an object of `service`; its name is the service's own, or `NAME-name`."""
    head = {"apiVersion": api_version, "kind": kind}
    full = f"{service.name}-{name}" if name else service.name
    return {**head, "metadata": metadata(service, full, component), **body}


def metadata(service: ZImageService, name: str, component: str = "worker") -> Manifest:
    """Build the metadata of a child: its owner is the resource, so deletion needs no finalizer."""
    return {
        "name": name,
        "namespace": service.namespace,
        "labels": labels(service.name, component),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": service.name,
                "uid": service.uid,
                "controller": True,
                # Nobody waits for the children in a foreground deletion: they hold nothing.
                "blockOwnerDeletion": False,
            }
        ],
    }


def ref(item: Manifest) -> Ref:
    """Say which object a manifest or a live object is."""
    head = item["metadata"]
    return Ref(item["kind"], head.get("namespace", ""), head["name"])


def digest(value: Any) -> str:
    """Give a short, stable digest of plain values (12 bytes: collisions do not happen by accident)."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if not text.isascii():
        # As former operators wrote it: another digest of the same pod would start it anew.
        text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def stamped(item: Manifest) -> Manifest:
    """Add the digest of the intent, so that a field that we stopped sending is noticed too."""
    head = item["metadata"]
    annotations = {**head.get("annotations", {}), HASH_ANNOTATION: digest(item)}
    return {**item, "metadata": {**head, "annotations": annotations}}
