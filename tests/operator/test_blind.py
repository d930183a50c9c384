"""A read that fails is no answer: nobody's policy is made wider or narrower for it, and nothing is taken over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.proxy import Proxy, Request, operator_behind
from laws import exists, wait_for
from support import Operator, eventually, published, smallest

pytestmark = pytest.mark.control_plane


@pytest.fixture(scope="module")
def blinded(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """An operator behind a proxy in place of the one of all other tests."""
    with operator_behind(operator, tmp_path_factory.mktemp("blinded")) as (proxy, harmed):
        yield proxy
    assert "Traceback" not in harmed.log.read_text()


@pytest.mark.parametrize("harm", ["500", "drop-before"])
def test_a_policy_that_cannot_be_read_is_left_as_it_is(blinded: Proxy, namespace: str, harm: str) -> None:
    """It has the name of ours; whose it is only a look at it could tell."""
    proxy, cluster = blinded, blinded.cluster
    head = {"name": "studio", "namespace": namespace}
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    cluster.apply({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": head, "spec": spec})
    before = cluster.get("netpol", "studio", "-n", namespace)

    def about(request: Request) -> bool:
        return (request.resource, request.namespace, request.name) == ("networkpolicies", namespace, "studio")

    def refused(request: Request) -> str:
        return harm if request.verb == "GET" and about(request) else ""

    proxy.harm = refused
    cluster.apply(smallest(namespace=namespace, gpu={"count": 0}, ingress=published(f"{namespace}.example.org")))

    # All tries of the transport (aiohttp makes two of one that breaks off), and then all of them once more.
    def settled() -> bool:
        tries = sum(bool(done) and about(one) for one, done in proxy.trace)
        return tries > 12 or cluster.get("netpol", "studio", "-n", namespace) != before

    eventually(settled, "looked at in vain", 120)
    assert cluster.get("netpol", "studio", "-n", namespace) == before
    for kind in ("deploy", "ing"):
        assert not exists(cluster, namespace, kind)
    proxy.harm = lambda _: ""
    wait_for(cluster, namespace, "NotOwned")
    assert cluster.get("netpol", "studio", "-n", namespace) == before
    cluster.kubectl("-n", namespace, "delete", "netpol", "studio")
    wait_for(cluster, namespace, "Ready")
