"""The real Envoy Gateway and the real Envoy, as processes beside the API server.

Envoy Gateway asks for its Envoy as a Deployment, whose pods the fake node pretends to run. What that Deployment says
is run here: the same arguments and files, with the names of the cluster's DNS and the folders changed.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from cluster import binaries
from cluster.control_plane import ControlPlane
from cluster.envoy import envoy
from cluster.programs import Programs
from edge.town import Item
from support import eventually

OWN_NAMESPACE, CONTROLLER = "envoy-gateway-system", "gateway.envoyproxy.io/gatewayclass-controller"
API, GATEWAY_API = "gateway.envoyproxy.io/v1alpha1", "gateway.networking.k8s.io/v1"
# Envoy Gateway adds 10000 to ports that only root may listen on.
PORTS = {"web": 10080, "websecure": 10443}
CONFIG = {
    "apiVersion": API,
    "kind": "EnvoyGateway",
    "gateway": {"controllerName": CONTROLLER},
    "provider": {
        "type": "Kubernetes",
        "kubernetes": {"leaderElection": {"disable": True}, "topologyInjector": {"disabled": True}},
    },
}
# Its certificates lie in /certs, by a constant: a root of its own, made of what it reads.
ROOTED = """set -e; root=$1; certs=$2; shift 2
mount -t tmpfs tmpfs "$root"
for folder in /proc /dev /etc /tmp "$1"; do mkdir -p "$root$folder"; mount --rbind "$folder" "$root$folder"; done
mkdir "$root/certs"; mount --bind "$certs" "$root/certs"
shift; exec chroot "$root" "$@"
"""
# The seed's fields. Envoy knows milliseconds, and no name of who signed in: the worker was asked.
LOG = (
    '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% - - [%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% '
    '%PROTOCOL%" %RESPONSE_CODE% %BYTES_SENT% "%REQ(REFERER)%" "%REQ(USER-AGENT)%" %DURATION%ms\n'
)


def entrance(namespace: str, domain: str) -> list[Item]:
    """What the platform team sets up: a class, a Gateway with one listener for HTTPS and one for HTTP, a log."""
    head = {"name": "edge", "namespace": namespace}
    certificate = {"certificateRefs": [{"name": "img-tls"}]}
    listeners = [
        {"name": "https", "protocol": "HTTPS", "port": 443, "hostname": f"*.{domain}", "tls": certificate},
        {"name": "http", "protocol": "HTTP", "port": 80},
    ]
    proxy = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "edge"}
    log = {"format": {"type": "Text", "text": LOG}, "sinks": [{"type": "File", "file": {"path": "/dev/stdout"}}]}
    own = {
        "provider": {"type": "Kubernetes", "kubernetes": {"envoyService": {"type": "ClusterIP"}}},
        "telemetry": {"accessLog": {"settings": [log]}},
        # By itself it asks the worker before it counts: a flood of strangers would all be asked about.
        "filterOrder": [{"name": "envoy.filters.http.local_ratelimit", "before": "envoy.filters.http.ext_authz"}],
    }
    ids = {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}],
        "headers": {"requestID": "PreserveOrGenerate"},
    }
    named = {"gatewayClassName": "envoy", "infrastructure": {"parametersRef": proxy}, "listeners": listeners}
    return [
        {"apiVersion": API, "kind": "EnvoyProxy", "metadata": head, "spec": own},
        {"apiVersion": API, "kind": "ClientTrafficPolicy", "metadata": head, "spec": ids},
        {"apiVersion": GATEWAY_API, "kind": "GatewayClass", "metadata": {"name": "envoy"},
         "spec": {"controllerName": CONTROLLER}},
        {"apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": head, "spec": named},
    ]  # fmt: skip


class EnvoyGateway:
    """Both programs, and where their files lie."""

    def __init__(self, cluster: ControlPlane, programs: Programs) -> None:
        self.cluster, self.programs, self.folder = cluster, programs, programs.directory
        # While there is a network to have them from.
        self.program, self.envoy = binaries.programs("envoy-gateway")["envoy-gateway"], envoy()

    def start(self) -> None:
        """Start Envoy Gateway, with certificates that it makes itself."""
        self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN_NAMESPACE}})
        environment = {"ENVOY_GATEWAY_NAMESPACE": OWN_NAMESPACE}
        self.cluster.run([self.program, "certgen", "--disable-topology-injector"], env=environment)
        for name in ("envoy-gateway", "envoy"):
            self.certificates(name)
        (self.folder / "root").mkdir()
        (self.folder / "config.json").write_text(json.dumps(CONFIG))
        self.programs.start(
            "envoy-gateway", "unshare", "--mount", "--propagation=private", "sh", "-c", ROOTED, "sh",
            self.folder / "root", self.folder / "certs-envoy-gateway", binaries.CACHE,
            self.program, "server", "--config-path", self.folder / "config.json",
            env={**os.environ, **self.cluster.environment, **environment},
        )  # fmt: skip

    def certificates(self, secret: str) -> None:
        """Put a Secret into a folder, as the kubelet would."""
        found = self.cluster.get("secret", secret, "-n", OWN_NAMESPACE)["data"]
        folder = self.folder / f"certs-{secret}"
        folder.mkdir()
        for name, text in found.items():
            (folder / name).write_bytes(base64.b64decode(text))

    def asked_for(self, kind: str, gateway: str, namespace: str) -> Item:
        """What Envoy Gateway made for a Gateway."""
        owner = "gateway.envoyproxy.io/owning-gateway-"
        selector = f"{owner}name={gateway},{owner}namespace={namespace}"
        looked = lambda: self.cluster.get(kind, "-n", OWN_NAMESPACE, "-l", selector)["items"]  # noqa: E731
        found: list[Item] = eventually(looked, f"{kind} of Gateway {gateway}")
        return found[0]

    def start_envoy(self, gateway: str, namespace: str) -> None:
        """Run what the Deployment asks for."""
        sds = self.folder / "sds"
        sds.mkdir()
        for name, text in self.asked_for("configmap", gateway, namespace)["data"].items():
            (sds / name).write_text(text.replace("/certs/", f"{self.folder}/certs-envoy/"))
        deployment = self.asked_for("deployment", gateway, namespace)
        containers: list[Any] = deployment["spec"]["template"]["spec"]["containers"]
        (arguments,) = (one["args"] for one in containers if one["name"] == "envoy")
        changed = {
            f"envoy-gateway.{OWN_NAMESPACE}.svc.cluster.local.": "127.0.0.1",
            "/sds/": f"{sds}/",
            # Envoy Gateway has these itself, in a pod of its own.
            "port_value: 19000": "port_value: 29000",
            "port_value: 19001": "port_value: 29001",
            "$(ENVOY_POD_NAME)": "envoy-0",
            "$(ENVOY_SERVICE_ZONE)": "here",
        }
        for old, new in changed.items():
            arguments = [one.replace(old, new) for one in arguments]
        arguments = [one for one in arguments if one != "--cpuset-threads"]
        self.programs.start("envoy", self.envoy, *arguments, "--concurrency", "1", "--use-dynamic-base-id")

    def log(self) -> Path:
        return self.folder / "envoy.log"
