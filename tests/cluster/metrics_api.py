"""A custom metrics API (custom.metrics.k8s.io): all that an adapter has to be for an autoscaler of Pods.

    with MetricsApi(cluster, folder) as metrics:
        metrics.values["zimage_queue_depth"] = 8      # of each pod

The aggregation layer reaches it by a Service of type ExternalName: an EndpointSlice must not
name a loopback address.
"""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import urllib.parse
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .api import Api
from .control_plane import ControlPlane
from .pki import Pki
from .ports import free_port

GROUP, VERSION = "custom.metrics.k8s.io", "v1beta2"
ROOT = f"/apis/{GROUP}/{VERSION}"


class MetricsApi:
    """Answers with the same value for every pod that is asked for."""

    def __init__(self, cluster: ControlPlane, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.values: dict[str, int] = {}
        self.asked: list[str] = []
        self.port = free_port()

    def __enter__(self) -> Self:
        Pki(self.folder).server("adapter", ["localhost"])
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.folder / "adapter.crt", self.folder / "adapter.key")
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), handler(self))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.cluster.apply(*self.registration())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Left registered it would slow down every discovery after this.
        self.cluster.kubectl("delete", "apiservice", f"{VERSION}.{GROUP}")
        self.server.shutdown()

    def registration(self) -> list[dict[str, Any]]:
        head = {"name": "metrics-adapter", "namespace": "kube-system"}
        spec = {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {**head, "port": self.port},
        }
        return [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": head,
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": f"{VERSION}.{GROUP}"},
                "spec": spec,
            },
        ]

    def answer(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        """The discovery document, or the metric of the pods that the selector finds."""
        if path == ROOT:
            resources = [
                {"name": f"pods/{name}", "singularName": "", "namespaced": True, "kind": "MetricValueList"}
                | {"verbs": ["get"]}
                for name in self.values
            ]
            kind = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}"}
            return {**kind, "resources": resources}
        _, namespace, _, _, metric = path.removeprefix(ROOT).strip("/").split("/")
        self.asked.append(metric)
        selector = urllib.parse.urlencode({"labelSelector": query.get("labelSelector", "")})
        pods = Api(self.cluster.kubeconfig).request("GET", f"/api/v1/namespaces/{namespace}/pods?{selector}")
        items = [self.value(namespace, pod["metadata"]["name"], metric) for pod in pods["items"]]
        return {"kind": "MetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": items}

    def value(self, namespace: str, pod: str, metric: str) -> dict[str, Any]:
        return {
            "describedObject": {"kind": "Pod", "namespace": namespace, "name": pod, "apiVersion": "/v1"},
            "metric": {"name": metric},
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "value": str(self.values[metric]),
        }


def handler(metrics: MetricsApi) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            try:
                body, status = metrics.answer(parts.path.rstrip("/"), dict(urllib.parse.parse_qsl(parts.query))), 200
            except (ValueError, KeyError):
                body, status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}, 404
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
