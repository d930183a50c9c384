"""The edge on the node: the real Traefik as a pod in `dmz`."""

from __future__ import annotations

import time
from pathlib import Path

from . import binaries
from .control_plane import Cluster
from .node import Node

MANIFEST = Path(__file__).parent / "traefik" / "traefik.yaml"
# Its Service: 443 for TLS, 80 redirects. *.example.org resolves to it inside the node.
ADDRESS = "10.96.0.80"


def traefik_crds_up(cluster: Cluster) -> None:
    """Traefik's own CRDs, for any cluster: what its module ships."""
    cluster.kubectl("apply", "--server-side", "-f", binaries.traefik_crds())
    crds = cluster.get("crd")["items"]
    names = [crd["metadata"]["name"] for crd in crds if crd["spec"]["group"] == "traefik.io"]
    cluster.kubectl("wait", "--for=condition=Established", "crd", *names, "--timeout=120s")


def traefik_up(node: Node) -> None:
    """Install Traefik and wait until it serves. The node must have images.traefik_image()."""
    traefik_crds_up(node)
    node.kubectl("apply", "--server-side", "-f", MANIFEST)
    node.kubectl("-n", "dmz", "rollout", "status", "deployment/traefik", "--timeout=180s")
    # Ready means that the pod answers; the way to it is kube-proxy's next sync.
    for _ in range(600):
        if node.run(["bash", "-c", f"exec 3<>/dev/tcp/{ADDRESS}/80"], check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise TimeoutError("Traefik's Service does not answer")
