"""The same service without Kubernetes: files for an inner host with the GPU and a DMZ host with nginx; pure.

Start with `files`. What is long and not Python lies in templates/, where `@NAME@` is filled in.
"""

from __future__ import annotations

from . import compose, firewall, nginx, readme
from .order import LOOPBACK, ONE_HOST, Hosts, Order, order
from .template import template

__all__ = ["LOOPBACK", "NAME", "ONE_HOST", "Hosts", "Order", "files", "order"]

NAME = "standalone"


def files(wanted: Order) -> dict[str, str]:
    """Give every file by its path below the output folder; the same order gives the same bytes."""
    return {
        "README.md": readme.text(wanted),
        "inner/compose.yaml": compose.text(wanted),
        "inner/door.py": template("door.py"),
        "inner/nftables.conf": firewall.inner(wanted),
        "inner/ufw.sh": firewall.inner_ufw(wanted),
        "dmz/nginx.conf": nginx.text(wanted),
        "dmz/nftables.conf": firewall.dmz(wanted),
        "dmz/ufw.sh": firewall.dmz_ufw(wanted),
    }
