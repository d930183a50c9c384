"""The one address inside the cluster."""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import HTTP_PORT, HTTP_PORT_NAME, selector_labels
from ..spec import ZImageService


def service(service: ZImageService) -> Manifest:
    """Build the ClusterIP Service. The management port is on the pods only: monitoring scrapes pods."""
    port = {"name": HTTP_PORT_NAME, "port": HTTP_PORT, "protocol": "TCP", "targetPort": HTTP_PORT_NAME}
    spec = {"type": "ClusterIP", "selector": selector_labels(service.name), "ports": [port]}
    return manifest("v1", "Service", service, spec=spec)
