"""compose.yaml of the inner host: the worker on a network that leads nowhere, and its one door.

Source of the fields: the Compose Specification. That an internal network publishes no port: moby issue 36174.
"""

from __future__ import annotations

from typing import Any

import yaml

from ...names import (
    BASIC_MOUNT,
    CERTIFICATE_MOUNT,
    HTTP_PORT,
    JWKS_MOUNT,
    MANAGEMENT_PORT,
    MODEL_MOUNT,
    SIGNING_MOUNT,
    WORKER_UID,
)
from ...quantities import quantity
from ...spec import ImageSource
from .order import BRIDGE, LOOPBACK, SUBNET, WORKER_ADDRESS, Order
from .template import filled

Document = dict[str, Any]

# After the worker's own drain; as the pod's (children/pod.py).
EXIT_SECONDS = 15
# Loading 20 GB from a slow disk; as long as the operator lets a rollout take by default.
START_SECONDS = 1800
# The door holds 64 KiB a direction and connection: a guess with room for a thousand of them.
DOOR_MEMORY, DOOR_FILES = "256m", 4096
# Threads of torch, of CUDA and of the encoder: a guess with room, against a runaway.
PROCESSES = 2048


def text(order: Order) -> str:
    """Write the file."""
    document = {
        "name": "zimage-" + order.service.name.replace(".", "-"),
        "services": {"worker": worker(order), "door": door(order)},
        "networks": networks(order),
    }
    body = yaml.safe_dump(escaped(document), sort_keys=False, width=110, allow_unicode=True)
    return filled("compose.yaml", {"HEAD": order.head, "DOCUMENT": body})


def escaped(value: Any) -> Any:
    """Double every `$`: Compose would put a variable of its own there."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def hardened(order: Order) -> Document:
    """Give what every container here is held to: as the pod, PodSecurity `restricted`."""
    return {
        "image": order.image,
        "user": f"{WORKER_UID}:{WORKER_UID}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
        # Otherwise a talkative client fills the disk.
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}},
    }


def worker(order: Order) -> Document:
    """Build the worker's service."""
    alive = f"import urllib.request as u; u.urlopen('http://{LOOPBACK}:{MANAGEMENT_PORT}/health/ready', timeout=4)"
    drain_seconds = order.service.spec.rollout.drain_seconds
    return {
        **hardened(order),
        "command": ["serve"],
        **({"scale": 0} if order.service.spec.stopped else {}),
        "environment": environment(order),
        "volumes": volumes(order),
        # Python's and torch's scratch files.
        "tmpfs": ["/tmp:size=2g,mode=1777"],  # noqa: S108
        "networks": {"inner": {"ipv4_address": WORKER_ADDRESS}},
        "deploy": {"resources": resources(order)},
        "stop_grace_period": f"{drain_seconds + EXIT_SECONDS}s",
        "healthcheck": {
            "test": ["CMD", "python3", "-c", alive],
            "interval": "10s",
            "timeout": "5s",
            "start_period": f"{START_SECONDS}s",
        },
    }


def environment(order: Order) -> Document:
    """Give the worker's settings: the operator's, but for what is another here."""
    values = dict(order.settings)
    if values.pop("ZIMAGE_JWT_JWKS_URL", None):
        # It reaches nobody: the host fetches the keys (README).
        values["ZIMAGE_JWT_JWKS_FILE"] = f"{JWKS_MOUNT}/jwks.json"
    return {
        **values,
        "ZIMAGE_ALLOWED_HOSTS": order.ingress.host,
        # Whoever connects comes from this network: the door, or this host.
        "ZIMAGE_TRUSTED_PROXIES": SUBNET,
    }


def volumes(order: Order) -> list[Document]:
    """Build the mounts. Folders, never single files: of a file that is replaced, a container keeps the old one."""
    auth = order.service.auth
    mounted = {
        "basic": BASIC_MOUNT if auth.basic else "",
        "jwks": JWKS_MOUNT if auth.jwt else "",
        "token": SIGNING_MOUNT if auth.tokens else "",
        "certificate": CERTIFICATE_MOUNT,
    }
    return [model(order), *(bind(f"{order.folder}/{name}", target) for name, target in mounted.items() if target)]


def model(order: Order) -> Document:
    """Build the mount of the weights."""
    source = order.service.model.source
    if isinstance(source, ImageSource):
        return {"type": "image", "source": source.reference, "target": MODEL_MOUNT}
    return bind(f"/srv/zimage/{order.service.name}/model", MODEL_MOUNT)


def bind(source: str, target: str) -> Document:
    """Build a mount of a folder of the host; a missing one is an error and not an empty folder."""
    return {
        "type": "bind",
        "source": source,
        "target": target,
        "read_only": True,
        "bind": {"create_host_path": False},
    }


def resources(order: Order) -> Document:
    """Build the limits, and the devices."""
    spec = order.service.spec
    limits = {"memory": f"{int(quantity(spec.resources.limits.memory))}b", "pids": PROCESSES}
    if spec.resources.limits.cpu:
        limits["cpus"] = f"{quantity(spec.resources.limits.cpu):f}"
    device = {"driver": "nvidia", "count": spec.gpu.count, "capabilities": ["gpu"]}
    return {"limits": limits, **({"reservations": {"devices": [device]}} if spec.gpu.count else {})}


def door(order: Order) -> Document:
    """Build the door: on one host published to loopback alone, on two a process at the inner host's own address.

    Not published by Docker there: what Docker publishes passes by ufw.
    """
    body = {
        **hardened(order),
        "init": True,
        "entrypoint": ["python3", "/door.py"],
        "volumes": [bind("./door.py", "/door.py")],
        "ulimits": {"nofile": DOOR_FILES},
        "deploy": {"resources": {"limits": {"memory": DOOR_MEMORY}}},
        "depends_on": ["worker"],
    }
    target = f"{WORKER_ADDRESS}:{HTTP_PORT}"
    if order.hosts.together:
        return {
            **body,
            "command": [f"0.0.0.0:{HTTP_PORT}", target],
            "ports": [f"{LOOPBACK}:{HTTP_PORT}:{HTTP_PORT}"],
            "networks": ["inner", "outer"],
        }
    return {**body, "command": [order.hosts.upstream, target], "network_mode": "host"}


def networks(order: Order) -> Document:
    """Build the networks; the worker's has a name that the firewall knows."""
    inner = {
        "internal": True,
        "driver_opts": {"com.docker.network.bridge.name": BRIDGE},
        "ipam": {"config": [{"subnet": SUBNET}]},
    }
    return {"inner": inner, **({"outer": {}} if order.hosts.together else {})}
