"""What stands behind every edge: services as the operator builds them, one address each, and real workers.

An address of loopback takes the place of each ClusterIP, so that the ports are the real ones and forward
authentication finds the worker by its Service's name.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.pki import Pki
from support import smallest
from zimage_operator.edge import dialect
from zimage_operator.names import HTTP_PORT
from zimage_operator.spec import parse

from .requests_table import SERVICES

Item = dict[str, Any]
INSIDE = "127.7.0.0/24"


class Town:
    """Every edge's services, by its name: the edge's name is the namespace."""

    def __init__(self, folder: Path, ways: dict[str, tuple[str, Item]], net: str = "") -> None:
        self.pki, self.ways = Pki(folder), ways
        # Two runs side by side hardly meet.
        net = net or f"127.{random.randrange(100, 200)}.{random.randrange(256)}"
        self.addresses = {"any": f"{net}.1", "limited": f"{net}.2"}
        self.services = {
            name: {key: parse(body, strict=True) for key, body in self.bodies(name).items()} for name in ways
        }
        for name in ways:
            self.renew(name)

    def bodies(self, name: str) -> dict[str, Item]:
        """The resources of one edge, by the key of SERVICES."""
        _, way = self.ways[name]
        kind = "gateway" if "parentRef" in way else "ingress"
        found = {}
        for key, parts in SERVICES.items():
            ranges = {"allowedSourceRanges": [INSIDE]} if key == "narrow" else {}
            edge = {**parts["ingress"], **ranges, **way, "host": f"{key}.{name}.example.org"}
            spec = {"auth": parts["auth"], "ingress": None, kind: edge}
            found[key] = smallest(key, name, **spec)
        return found

    def hosts(self, name: str) -> dict[str, str]:
        return {key: str(one.spec.published and one.spec.published.host) for key, one in self.services[name].items()}

    def renew(self, name: str) -> None:
        """Sign a new certificate for all hosts of an edge."""
        self.pki.server(name, list(self.hosts(name).values()))

    def certificate(self, name: str) -> tuple[str, str]:
        """Certificate and key as they are now, in PEM."""
        return tuple((self.pki.directory / f"{name}.{part}").read_text() for part in ("crt", "key"))  # type: ignore[return-value]

    def address(self, key: str) -> str:
        """Where the worker of a service listens, on its real port."""
        return self.addresses.get(key, self.addresses["any"])

    def allowed_hosts(self) -> str:
        """Every host, and every name by which an edge asks who somebody is."""
        published = [host for name in self.ways for host in self.hosts(name).values()]
        return ",".join([*published, *self.names()])

    def names(self) -> Iterator[str]:
        return (f"{key}.{name}.svc" for name in self.ways for key in SERVICES)

    def hosts_file(self) -> str:
        """The cluster's DNS, as /etc/hosts."""
        lines = [f"{self.address(one.partition('.')[0])} {one}" for one in self.names()]
        return "\n".join(["127.0.0.1 localhost", *lines, ""])

    def objects(self, name: str) -> Iterator[Item]:
        """All that the API server shows of one edge's services: theirs, and what the operator builds for the edge."""
        controller = self.ways[name][0]
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        yield self.tls_secret(name)
        for key, service in self.services[name].items():
            edge = dialect(service, controller)
            assert edge
            if edge.lacks(service):
                continue  # the operator publishes no such service
            yield from map(with_namespace, [*edge.helpers(service), *edge.routes(service)])
            yield from self.behind(name, key)

    def tls_secret(self, name: str) -> Item:
        crt, key = self.certificate(name)
        data = {"tls.crt": encoded(crt), "tls.key": encoded(key)}
        head = {"name": "img-tls", "namespace": name}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": head, "type": "kubernetes.io/tls", "data": data}

    def users(self, name: str, htpasswd: str) -> Item:
        head = {"name": "studio-users", "namespace": name}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": head, "data": {"auth": encoded(htpasswd)}}

    def behind(self, name: str, key: str, *, ready: bool = True) -> Iterator[Item]:
        """The Service and its one endpoint."""
        head = {"name": key, "namespace": name}
        port = {"name": "http", "port": HTTP_PORT, "protocol": "TCP"}
        spec = {"type": "ClusterIP", "clusterIP": self.address(key), "ports": [{**port, "targetPort": "http"}]}
        yield {"apiVersion": "v1", "kind": "Service", "metadata": head, "spec": spec}
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**head, "labels": {"kubernetes.io/service-name": key}},
            "addressType": "IPv4",
            "ports": [port],
            "endpoints": [{"addresses": [self.address(key)], "conditions": {"ready": ready, "serving": ready}}],
        }


def with_namespace(item: Item) -> Item:
    """As the API server would show it."""
    return {**item, "metadata": {**item["metadata"], "generation": 1}}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
