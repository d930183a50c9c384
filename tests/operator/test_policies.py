"""Which rules of another NetworkPolicy widen ours: by cases, and against an evaluator of every connection."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import smallest
from zimage_operator.children.networkpolicy import network_policy
from zimage_operator.manifest import Environment
from zimage_operator.neighbours import PORTS
from zimage_operator.policies import includes, matches, opens_ingress, widens_egress
from zimage_operator.spec import parse

OWN = "team-a"
NAMESPACE = "kubernetes.io/metadata.name"
BODY = smallest(namespace=OWN, network={"proxyPodLabels": {"app": "traefik"}})
OURS = network_policy(parse(BODY), Environment("w:1", "zimage-system"))["spec"]


def namespaces(*names: str, **more: Any) -> dict[str, Any]:
    expression = {"key": NAMESPACE, "operator": "In", "values": list(names)}
    return {"namespaceSelector": {"matchExpressions": [expression]}, **more}


def in_dmz(**labels: str) -> dict[str, Any]:
    selector = {"podSelector": {"matchLabels": labels}} if labels else {}
    return {"namespaceSelector": {"matchLabels": {NAMESPACE: "dmz"}}, **selector}


def rule(*peers: dict[str, Any], **port: Any) -> dict[str, Any]:
    return {**({"from": list(peers)} if peers else {}), **({"ports": [port]} if port else {})}


CASES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "everybody, everywhere": (rule(), [7860, 9090]),
    "everybody on 7860": (rule(port=7860), [7860]),
    "everybody on http": (rule(port="http"), [7860]),
    "everybody in a range": (rule(port=7000, endPort=8000), [7860]),
    "everybody beside the ports": (rule(port=8080), []),
    "everybody by UDP": (rule(port=7860, protocol="UDP"), []),
    "an address": (rule({"ipBlock": {"cidr": "10.0.0.0/8"}}), [7860, 9090]),
    "our proxies again": (rule(in_dmz(app="traefik"), port=7860), []),
    "fewer of our proxies": (rule(in_dmz(app="traefik", tier="edge"), port=7860), []),
    "all of dmz": (rule(in_dmz(), port=7860), [7860]),
    "our proxies on every port": (rule(in_dmz(app="traefik")), [9090]),
    "proxies written otherwise": (
        rule(namespaces("dmz", podSelector={"matchLabels": {"app": "traefik"}}), port=7860),
        [],
    ),
    "dmz or another": (rule(namespaces("dmz", "x", podSelector={"matchLabels": {"app": "traefik"}})), [7860, 9090]),
    "monitoring again": (rule(namespaces("monitoring"), port="management"), []),
    "monitoring on 7860": (rule(namespaces("monitoring"), port=7860), [7860]),
    "its own namespace": (rule({"podSelector": {}}, port=7860), [7860]),
    "every namespace": (rule({"namespaceSelector": {}}, port=9090), [9090]),
    "a forgeable label": (rule({"namespaceSelector": {"matchLabels": {"name": "dmz"}}}, port=7860), [7860]),
    "the operator again": (
        rule(namespaces("zimage-system", podSelector={"matchLabels": {"app.kubernetes.io/name": "zimage-operator"}})),
        [7860],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_rule_opens(case: str) -> None:
    given_rule, opened = CASES[case]
    assert opens_ingress(OURS["ingress"], [given_rule], PORTS, OWN) == opened


def test_where_the_own_namespace_is_allowed_its_pods_are_no_hole() -> None:
    ours = network_policy(
        parse(smallest(namespace=OWN, network={"allowedNamespaces": [OWN]})), Environment("w:1", "zimage-system")
    )["spec"]
    assert opens_ingress(ours["ingress"], [rule({"podSelector": {}}, port=7860)], PORTS, OWN) == []


def test_labels_of_ours_cover_the_same_labels_and_never_a_name() -> None:
    """Which namespaces carry them may change at any moment: a name is named, and so is a part of the labels."""
    body = smallest(namespace=OWN, network={"allowedNamespaceLabels": {"name": "dmz", "tier": "edge"}})
    ours = network_policy(parse(body), Environment("w:1", "zimage-system"))["spec"]["ingress"]

    def opened(**wanted: str) -> list[int]:
        return opens_ingress(ours, [rule({"namespaceSelector": {"matchLabels": wanted}}, port=7860)], PORTS, OWN)

    assert opened(name="dmz", tier="edge") == []
    assert opened(name="dmz", tier="edge", zone="a") == []
    assert opened(name="dmz") == [7860]
    assert opens_ingress(ours, [rule(in_dmz(), port=7860)], PORTS, OWN) == [7860]


@pytest.mark.parametrize(
    ("ours", "theirs", "wider"),
    [
        ([], [{}], True),
        ([], [], False),
        ([{}], [{"to": [{"podSelector": {}}]}], False),
        ([{"ports": [{"port": 53}]}], [{"ports": [{"port": 53}]}], False),
        ([{"ports": [{"port": 53}]}], [{}], True),
        ([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}], [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}], False),
        ([{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}], [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}], True),
    ],
)
def test_what_lets_the_workers_out(ours: list[Any], theirs: list[Any], wider: bool) -> None:
    assert widens_egress(ours, theirs, OWN) is wider


def test_a_block_with_exceptions_covers_its_equal_only() -> None:
    block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
    assert includes(block, block, OWN)
    assert not includes(block, {"ipBlock": {"cidr": "10.1.0.0/16"}}, OWN)


# --- against every connection there could be ----------------------------------------------

values = st.sampled_from(["a", "b"])
selectors = st.fixed_dictionaries(
    {},
    optional={
        "matchLabels": st.dictionaries(st.sampled_from(["k", "l"]), values, max_size=2),
        "matchExpressions": st.lists(
            st.one_of(
                st.fixed_dictionaries(
                    {
                        "key": st.sampled_from(["k", "l"]),
                        "operator": st.sampled_from(["In", "NotIn"]),
                        "values": st.lists(values, min_size=1, max_size=2),
                    }
                ),
                st.fixed_dictionaries(
                    {"key": st.sampled_from(["k", "l"]), "operator": st.sampled_from(["Exists", "DoesNotExist"])}
                ),
            ),
            max_size=2,
        ),
    },
)
peers = st.one_of(
    st.fixed_dictionaries({"podSelector": selectors}),
    st.fixed_dictionaries({"namespaceSelector": selectors}, optional={"podSelector": selectors}),
    st.sampled_from([{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": "10.1.0.0/16"}}]),
    st.just({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}),
)
ports = st.sampled_from(
    [{"port": 7860}, {"port": "http"}, {"port": 1, "endPort": 9000}, {"port": 9090}, {"protocol": "UDP"}, {}]
)
rules = st.lists(
    st.fixed_dictionaries(
        {}, optional={"from": st.lists(peers, max_size=2), "ports": st.lists(ports, min_size=1, max_size=2)}
    ),
    max_size=3,
)
LABELS = [{}, {"k": "a"}, {"k": "b"}, {"l": "a"}, {"k": "a", "l": "b"}, {"k": "b", "l": "b"}]
SOURCES: list[tuple[dict[str, str], dict[str, str], bool, str]] = [
    *((place, pod, False, "") for place in LABELS for pod in LABELS),
    *(({NAMESPACE: OWN}, pod, True, "") for pod in LABELS),
    *(({}, {}, False, address) for address in ("10.0.0.1", "10.1.0.1", "192.0.2.1")),
]


def admits(rule: dict[str, Any], source: tuple[dict[str, str], dict[str, str], bool, str], number: int) -> bool:
    """What the definition of NetworkPolicy says, written down once more and without any cleverness."""
    place, pod, own, address = source

    def from_peer(peer: dict[str, Any]) -> bool:
        if block := peer.get("ipBlock"):
            inside = bool(address) and ip_address(address) in ip_network(block["cidr"])
            return inside and not any(ip_address(address) in ip_network(one) for one in block.get("except", []))
        there = matches(peer["namespaceSelector"], place) if "namespaceSelector" in peer else own
        return not address and there and matches(peer.get("podSelector", {}), pod)

    def on_port(port: dict[str, Any]) -> bool:
        wanted = port.get("port")
        if port.get("protocol", "TCP") != "TCP":
            return False
        if wanted is None or wanted == PORTS[number]:
            return True
        return isinstance(wanted, int) and wanted <= number <= port.get("endPort", wanted)

    return (not rule.get("from") or any(map(from_peer, rule["from"]))) and (
        not rule.get("ports") or any(map(on_port, rule["ports"]))
    )


# A noisy machine is no failure.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(rules, rules)
def test_no_connection_that_is_opened_goes_unnamed(ours: list[Any], theirs: list[Any]) -> None:
    named = opens_ingress(ours, theirs, PORTS, OWN)
    for number in PORTS:
        before = {i for i, one in enumerate(SOURCES) if any(admits(rule, one, number) for rule in ours)}
        after = before | {i for i, one in enumerate(SOURCES) if any(admits(rule, one, number) for rule in theirs)}
        assert after == before or number in named


@patient
@given(rules)
def test_a_copy_of_ours_opens_nothing(ours: list[Any]) -> None:
    assert opens_ingress(ours, ours, PORTS, OWN) == []
