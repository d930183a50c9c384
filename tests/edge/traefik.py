"""The real Traefik as three edges at once: its own Ingresses, ingress-nginx's annotations, and the Gateway API."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.ports import free_ports

PATIENCE_SECONDS = 60
ENTRYPOINTS = ("web", "websecure")


def program() -> str | None:
    return shutil.which("traefik", path=str(Path(sys.executable).parent))


def entrances(port: int) -> list[dict[str, Any]]:
    """What the cluster's administrator has set up: two classes, and a Gateway with one listener."""
    networking, gateway = "networking.k8s.io/v1", "gateway.networking.k8s.io/v1"
    listener = {
        "name": "https",
        "protocol": "HTTPS",
        "port": port,
        "tls": {"mode": "Terminate", "certificateRefs": [{"group": "", "kind": "Secret", "name": "img-tls"}]},
        "allowedRoutes": {"namespaces": {"from": "Same"}},
    }
    traefik = "traefik.io/ingress-controller"
    classes = {"traefik": traefik, "safe": traefik, "nginx": "k8s.io/ingress-nginx"}
    return [
        *({"apiVersion": networking, "kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": text}}
          for name, text in classes.items()),
        {"apiVersion": gateway, "kind": "GatewayClass", "metadata": {"name": "traefik", "generation": 1},
         "spec": {"controllerName": "traefik.io/gateway-controller"}},
        {"apiVersion": gateway, "kind": "Gateway",
         "metadata": {"name": "edge", "namespace": "gateway-traefik", "generation": 1},
         "spec": {"gatewayClassName": "traefik", "listeners": [listener]}},
    ]  # fmt: skip


def arguments(api: str, ports: dict[str, int], log: Path, class_name: str) -> list[str]:
    """As a platform team would run it: forwarded headers trusted from nobody, aliases of headers deleted."""
    secure = "--entrypoints.websecure.http"
    # One of the two alone: both would answer for every Gateway.
    provider = "--providers.kubernetesgateway"
    gateway = [f"{provider}.endpoint={api}", f"{provider}.token=x"] if class_name == "traefik" else []
    return [
        "--global.checknewversion=false", "--global.sendanonymoususage=false",
        *(f"--entrypoints.{name}.address=127.0.0.1:{ports[name]}" for name in ENTRYPOINTS),
        f"{secure}.aliasheadersstrategy=delete",
        f"--providers.kubernetescrd.endpoint={api}", "--providers.kubernetescrd.token=x",
        f"--providers.kubernetesingress.endpoint={api}", "--providers.kubernetesingress.token=x",
        f"--providers.kubernetesingress.ingressclass={class_name}",
        # As its Helm chart does: without it a service without a ready worker is not served at all (404).
        "--providers.kubernetesingress.allowemptyservices=true",
        f"--providers.kubernetescrd.safenaming={str(class_name == 'safe').lower()}",
        f"--providers.kubernetesingressnginx.endpoint={api}", "--providers.kubernetesingressnginx.token=x",
        *gateway,
        "--providers.providersthrottleduration=100ms",
        "--accesslog=true", "--accesslog.format=common", f"--accesslog.filepath={log}",
        "--accesslog.fields.headers.names.User-Agent=keep", "--accesslog.fields.headers.names.Referer=keep",
        "--log.level=DEBUG",
    ]  # fmt: skip


@contextmanager
def running(api: str, hosts_file: str, folder: Path, class_name: str = "traefik") -> Iterator[dict[str, int]]:
    """Run it with the cluster's names in /etc/hosts, in a mount namespace of its own; gives its ports."""
    ports = dict(zip(ENTRYPOINTS, free_ports(2), strict=True))
    (folder / "hosts").write_text(hosts_file)
    traefik = [str(program()), *arguments(api, ports, folder / "access.log", class_name)]
    own = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    script = f'mount --bind {folder}/hosts /etc/hosts && exec "$@"'
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen([*own, "sh", "-c", script, "sh", *traefik], stdout=out, stderr=out)
    try:
        opened(ports["websecure"], process, folder / "out")
        yield ports
    finally:
        process.terminate()
        process.wait(30)


def opened(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until somebody listens."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < until, log.read_text()[-4000:]
            time.sleep(0.05)
