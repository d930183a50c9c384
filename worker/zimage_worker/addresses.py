"""Who is at the other end, and whom he asks for: pure readings of headers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from .settings import Network

Address = IPv4Address | IPv6Address
# A client gets a /64 from its provider: one bucket for all of it.
IPV6_CLIENT_BITS = 64
# A name with or without its final dot, or an IPv6 address in brackets; then perhaps a port.
HOST = re.compile(r"(\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^\s:\[\]@/]+?)\.?)(:[0-9]{0,5})?")


def parse_address(text: str) -> Address | None:
    """An address as proxies write it: with a port, in brackets, IPv4 inside IPv6, or nonsense."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def trusted(address: Address, proxies: Sequence[Network]) -> bool:
    """Whether this hop is one of our proxies."""
    return any(address in network for network in proxies)


def client_address(peer: str, forwarded: Sequence[str], proxies: Sequence[Network]) -> str:
    """The client: the right-most hop that is not ours, and only when our proxy tells us.

    Where every hop is trusted (the operator writes 0.0.0.0/0,::/0: who reaches the pod is a
    proxy) the right-most entry counts, the one that this proxy itself has written.
    """
    near = parse_address(peer)
    if near is None:
        return peer
    if not trusted(near, proxies):
        return str(near)
    hops = [hop for header in forwarded for hop in header.split(",") if hop.strip()]
    seen: list[Address] = []
    for hop in reversed(hops):
        address = parse_address(hop)
        if address is None:
            # Whatever stands left of nonsense was written by the one who wrote nonsense.
            break
        if not trusted(address, proxies):
            return str(address)
        seen.append(address)
    return str(seen[0] if seen else near)


def bucket(address: str) -> str:
    """The key of the limits: an address, or an IPv6 client's whole network."""
    parsed = parse_address(address)
    if isinstance(parsed, IPv6Address):
        return f"{IPv6Address(int(parsed) >> IPV6_CLIENT_BITS << IPV6_CLIENT_BITS)}/{IPV6_CLIENT_BITS}"
    return address


def host_allowed(hosts: Sequence[str], allowed: Sequence[str]) -> bool:
    """Exactly one Host header with an allowed name; port and letter case do not count."""
    if "*" in allowed:
        return True
    if len(hosts) != 1:
        return False
    found = HOST.fullmatch(hosts[0].strip().lower())
    return found is not None and (found["six"] or found["name"]) in allowed


def cross_site(fetch_site: str | None, origin: str | None, host: str) -> bool:
    """Whether a browser says that another site's page sends this; programs send neither header.

    `fetch_site` is Sec-Fetch-Site, which browsers leave out on plain HTTP; there Origin tells, `null`
    being nobody's.
    """
    if fetch_site is not None:
        return fetch_site not in {"same-origin", "none"}
    return origin is not None and urlsplit(origin).netloc.lower() != host.lower()
