"""Who may open a connection to the workers, and that they may open none but to an issuer's keys."""

from __future__ import annotations

from ..manifest import Environment, Manifest, manifest
from ..names import (
    DOWNLOAD,
    HTTP_PORT,
    MANAGEMENT_PORT,
    NAMESPACE_LABEL,
    OPERATOR_POD_LABELS,
    selector_labels,
)
from ..spec import HubSource, ZImageService


def network_policy(service: ZImageService, environment: Environment) -> Manifest:
    """Admit the proxies to 7860, monitoring and the operator to 9090, and let nothing out but to fetch keys.

    Namespaces are selected by `kubernetes.io/metadata.name`, which the API server sets and
    nobody can forge, unless the resource names labels of its own. `egress: []` closes DNS too:
    the worker reads its model from a volume.
    """
    network = service.spec.network
    proxies = [peer(name, network.proxy_pod_labels) for name in network.client_namespaces]
    if network.allowed_namespace_labels:
        proxies = [labelled(network.allowed_namespace_labels, network.proxy_pod_labels)]
    watchers = [peer(name) for name in network.metrics_namespaces]
    operator = peer(environment.operator_namespace, OPERATOR_POD_LABELS)
    spec = {
        "podSelector": {"matchLabels": selector_labels(service.name)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": proxies, "ports": [{"port": HTTP_PORT, "protocol": "TCP"}]},
            {"from": [*watchers, operator], "ports": [{"port": MANAGEMENT_PORT, "protocol": "TCP"}]},
        ],
        "egress": egress(service),
    }
    return manifest("networking.k8s.io/v1", "NetworkPolicy", service, spec=spec)


def egress(service: ZImageService) -> list[Manifest]:
    """Build what the workers may reach: nothing, or DNS and the port of the issuer's keys."""
    port = service.auth.jwt.jwks.port if service.auth.jwt else None
    return [] if port is None else outside(port)


def outside(*ports: int) -> list[Manifest]:
    """Build the way to DNS and to these TCP ports.

    A policy knows no host names, so the ports are open at every address but the link-local ones, where clouds
    serve the node's own credentials. DNS is open at those too: it goes out to every address as it is, and a cluster's
    DNS may be no pod, but on each node (NodeLocal DNSCache, and our own test node), or in any namespace.
    """
    blocks = [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
        {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::254/128"]}},
    ]
    names: Manifest = {"ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]}
    return [names, {"to": blocks, "ports": [{"port": port, "protocol": "TCP"} for port in ports]}]


def download_policy(service: ZImageService, environment: Environment) -> Manifest:
    """Let the download Job reach its hub, and nobody reach it but the operator, which asks how far it is."""
    hub = service.model.source
    assert isinstance(hub, HubSource), "only a hub's model is fetched"
    operator = peer(environment.operator_namespace, OPERATOR_POD_LABELS)
    spec = {
        "podSelector": {"matchLabels": selector_labels(service.name, DOWNLOAD)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [operator], "ports": [{"port": MANAGEMENT_PORT, "protocol": "TCP"}]}],
        "egress": outside(*hub.ports),
    }
    return manifest("networking.k8s.io/v1", "NetworkPolicy", service, DOWNLOAD, DOWNLOAD, spec=spec)


def peer(namespace: str, pod_labels: dict[str, str] | None = None) -> Manifest:
    """Build one `from` item: the pods of one namespace, or some of them."""
    return labelled({NAMESPACE_LABEL: namespace}, pod_labels)


def labelled(namespace_labels: dict[str, str], pod_labels: dict[str, str] | None = None) -> Manifest:
    """Build one `from` item. Both selectors in one item mean AND; in two items they would mean OR."""
    item: Manifest = {"namespaceSelector": {"matchLabels": namespace_labels}}
    if pod_labels:
        item["podSelector"] = {"matchLabels": pod_labels}
    return item
