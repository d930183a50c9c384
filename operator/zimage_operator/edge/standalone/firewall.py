"""The firewalls of both hosts: as a table of nftables of its own, and as commands of ufw.

They close and limit what belongs to this service, and nothing else: the host's own rules stay as they are. nftables
decides in `prerouting`, before Docker's rules send a packet elsewhere.
"""

from __future__ import annotations

from ipaddress import ip_network

from ...names import HTTP_PORT, MANAGEMENT_PORT
from .order import BRIDGE, Order
from .template import filled


def dmz(order: Order) -> str:
    """Write nftables.conf of the DMZ host."""
    ranges = order.ingress.allowed_source_ranges
    rules = [f"{family(item)} saddr {item} tcp dport {{ 80, 443 }} accept" for item in ranges]
    rules += ["fib daddr type local tcp dport { 80, 443 } drop"] if ranges else ["# 80 and 443: open to everybody"]
    return filled("nftables-dmz.conf", {**ports(order), "RULES": "\n".join(rules)})


def inner(order: Order) -> str:
    """Write nftables.conf of the inner host."""
    hosts = order.hosts
    admitted = f"{family(hosts.dmz)} saddr {hosts.dmz} tcp dport {HTTP_PORT} accept"
    rule = "# nginx is on this host: nobody comes from outside" if hosts.together else admitted
    return filled("nftables-inner.conf", {**ports(order), "RULES": rule, "BRIDGE": BRIDGE})


def dmz_ufw(order: Order) -> str:
    """Write the same for the DMZ host as commands of ufw."""
    ranges = order.ingress.allowed_source_ranges
    # Each is put before the others, so the last one written is the first one asked.
    rules = ["prepend deny proto tcp from any to any port 80,443"] if ranges else []
    rules += [f"prepend allow proto tcp from {item} to any port 80,443" for item in ranges or ("any",)]
    return commands(order, rules)


def inner_ufw(order: Order) -> str:
    """Write the same for the inner host as commands of ufw."""
    hosts = order.hosts
    admitted = f"prepend allow proto tcp from {hosts.dmz} to {hosts.inner} port {HTTP_PORT}"
    return commands(order, [] if hosts.together else [admitted])


def commands(order: Order, rules: list[str]) -> str:
    """Write a script that may run twice: ufw leaves out what it has."""
    closed = f"prepend deny proto tcp from any to any port {HTTP_PORT},{MANAGEMENT_PORT}"
    return filled("ufw.sh", {"HEAD": order.head, "RULES": "\n".join(f"ufw {rule}" for rule in [closed, *rules])})


def ports(order: Order) -> dict[str, object]:
    """Give what both tables name."""
    return {"HEAD": order.head, "HTTP_PORT": HTTP_PORT, "MANAGEMENT_PORT": MANAGEMENT_PORT}


def family(address: str) -> str:
    """Give nftables' word for the kind of an address or a range."""
    return "ip" if ip_network(address).version == 4 else "ip6"
