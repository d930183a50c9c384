from __future__ import annotations

from ipaddress import ip_network

import pytest

from zimage_worker.addresses import bucket, client_address, host_allowed

ALL = (ip_network("0.0.0.0/0"), ip_network("::/0"))
PODS = (ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "client"),
    [
        ("192.0.2.1", ["6.6.6.6"], PODS, "192.0.2.1"),
        ("10.0.0.1", [], PODS, "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.7"], PODS, "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.7, 10.0.0.9"], PODS, "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.7"], PODS, "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.7"], ALL, "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6, nonsense"], PODS, "10.0.0.1"),
        ("::ffff:10.0.0.1", ["198.51.100.7:4711"], PODS, "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::1]:80"], PODS, "2001:db8::1"),
        ("10.0.0.1", ["6.6.6.6"], (), "10.0.0.1"),
    ],
)
def test_the_client_is_the_right_most_hop_that_is_not_ours(peer, forwarded, proxies, client) -> None:
    assert client_address(peer, forwarded, proxies) == client


def test_an_ipv6_client_is_its_network() -> None:
    assert bucket("2001:db8::1") == bucket("2001:db8::ffff:2") != bucket("2001:db8:0:1::1")
    assert bucket("192.0.2.1") == "192.0.2.1"


@pytest.mark.parametrize(
    ("hosts", "allowed"),
    [
        (["images.example.org"], True), (["IMAGES.example.org:443"], True), (["images.example.org."], True),
        (["evil.example.org"], False), ([], False), (["images.example.org", "images.example.org"], False),
        (["images.example.org.evil.org"], False), (["[::1]:80"], True), (["x@images.example.org"], False),
    ],
)  # fmt: skip
def test_hosts(hosts: list[str], allowed: bool) -> None:
    assert host_allowed(hosts, ("images.example.org", "::1")) is allowed
    assert host_allowed(hosts, ("*",))
