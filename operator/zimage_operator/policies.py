"""What a NetworkPolicy's rule lets pass, compared with what ours does; pure.

Sound rather than clever: a rule counts as covered only where that can be shown from the
selectors alone, so a peer that is merely written differently is named, never overlooked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from .names import NAMESPACE_LABEL

Raw = Mapping[str, Any]
# A rule without peers, or without ports, means all of them.
ANY: tuple[Raw | None] = (None,)


def matches(selector: Raw, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects an object with these labels."""
    equal = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return equal and all(holds(one, labels) for one in selector.get("matchExpressions") or ())


def holds(expression: Raw, labels: Mapping[str, str]) -> bool:
    """Judge one expression of a label selector."""
    found, values = labels.get(expression["key"]), expression.get("values") or ()
    return {
        "In": found in values,
        "NotIn": found not in values,
        "Exists": found is not None,
        "DoesNotExist": found is None,
    }[expression["operator"]]


def opens_ingress(ours: Sequence[Raw], theirs: Sequence[Raw], ports: Mapping[int, str], own: str) -> list[int]:
    """Give the ports of the pod that `theirs` opens to somebody whom `ours` does not admit there."""

    def admitted(peer: Raw | None, number: int) -> bool:
        rules = (rule for rule in ours if reaches(rule, number, ports[number]))
        return any(includes(allowed, peer, own) for rule in rules for allowed in rule.get("from") or ANY)

    return [
        number
        for number, name in ports.items()
        if any(
            not admitted(peer, number)
            for rule in theirs
            if reaches(rule, number, name)
            for peer in rule.get("from") or ANY
        )
    ]


def reaches(rule: Raw, number: int, name: str) -> bool:
    """Whether a rule is about a TCP port of the pod, by number, by range or by name."""
    return any(port is None or covers_port(port, number, name) for port in rule.get("ports") or ANY)


def covers_port(port: Raw, number: int, name: str) -> bool:
    """Judge one entry of `ports`."""
    wanted = port.get("port")
    if (port.get("protocol") or "TCP") != "TCP":
        return False
    if wanted is None or wanted == name:
        return True
    return isinstance(wanted, int) and wanted <= number <= (port.get("endPort") or wanted)


def widens_egress(ours: Sequence[Raw], theirs: Sequence[Raw], own: str) -> bool:
    """Whether `theirs` lets the pod connect to somewhere that `ours` does not."""
    return any(
        not any(one_exit(rule, peer, port, own) for rule in ours)
        for their in theirs
        for peer in their.get("to") or ANY
        for port in their.get("ports") or ANY
    )


def one_exit(rule: Raw, peer: Raw | None, port: Raw | None, own: str) -> bool:
    """Whether a rule of ours lets out to a peer on a port."""
    return (not rule.get("ports") or port in rule["ports"]) and any(
        includes(allowed, peer, own) for allowed in rule.get("to") or ANY
    )


def includes(ours: Raw | None, theirs: Raw | None, own: str) -> bool:
    """Whether every source that `theirs` means is meant by `ours` too; None means everybody."""
    if ours is None or theirs is None:
        return ours is None
    if ours.get("ipBlock") or theirs.get("ipBlock"):
        return block_includes(ours.get("ipBlock"), theirs.get("ipBlock"))
    outer, inner = (peer.get("namespaceSelector", {"matchLabels": {NAMESPACE_LABEL: own}}) for peer in (ours, theirs))
    return narrower(inner, outer) and narrower(theirs.get("podSelector") or {}, ours.get("podSelector") or {})


def block_includes(ours: Raw | None, theirs: Raw | None) -> bool:
    """Compare two address blocks; one with exceptions covers nothing but its equal."""
    if not ours or not theirs:
        return False
    outer, inner = ip_network(ours["cidr"]), ip_network(theirs["cidr"])
    if ours.get("except"):
        return ours == theirs
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def narrower(inner: Raw, outer: Raw) -> bool:
    """Whether whatever `inner` selects is selected by `outer`: every demand of `outer` is one of `inner`."""
    wanted, found = demands(outer), demands(inner)
    if any(one["operator"] != "In" and one not in (inner.get("matchExpressions") or ()) for one in expressions(outer)):
        return False
    return all(key in found and found[key] <= values for key, values in wanted.items())


def expressions(selector: Raw) -> Collection[Raw]:
    return selector.get("matchExpressions") or ()


def demands(selector: Raw) -> dict[str, frozenset[str]]:
    """Give the values that a selector leaves for each label."""
    found = {key: frozenset({value}) for key, value in (selector.get("matchLabels") or {}).items()}
    for one in expressions(selector):
        if one["operator"] == "In":
            values = frozenset(one.get("values") or ())
            found[one["key"]] = found.get(one["key"], values) & values
    return found
