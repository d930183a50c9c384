"""Namespaces that are let in by labels: which they are now, that it is told, and when the operator is one of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from laws import conditions, serve, wait_for
from support import Operator, eventually, published, smallest
from zimage_operator.cache import Cache
from zimage_operator.manifest import Environment
from zimage_operator.observed import Observed
from zimage_operator.reconcile import is_admitted
from zimage_operator.spec import parse
from zimage_operator.status import admitted, suspicion

BY_LABEL = {"network": {"allowedNamespaceLabels": {"name": "dmz"}}}
LABELLED = parse(smallest(namespace="team-a", **BY_LABEL))
NAMED = parse(smallest(namespace="team-a"))


def space(called: str, version: int, uid: str = "", **labels: str) -> dict[str, Any]:
    head = {"name": called, "uid": uid or called, "resourceVersion": str(version), "labels": labels}
    return {"kind": "Namespace", "apiVersion": "v1", "metadata": head}


def resource(name: str, **spec: Any) -> dict[str, Any]:
    body = smallest(name, "team-a", **spec)
    return {**body, "metadata": {**body["metadata"], "uid": name, "resourceVersion": "1"}}


@pytest.fixture
def cache() -> Cache:
    known = Cache()
    known.observe("ZImageService", resource("labelled", **BY_LABEL))
    known.observe("ZImageService", resource("named"))
    return known


WANTED = {"name": "dmz"}


def test_who_comes_and_goes_concerns_the_services_that_name_labels(cache: Cache) -> None:
    labelled = [("team-a", "labelled")]
    assert cache.namespaces.carrying(WANTED) is None, "nothing is claimed of what nobody has looked at"
    assert cache.observe("Namespace", space("edge", 2, name="dmz", tier="a")) == labelled
    assert cache.namespaces.carrying(WANTED) == ("edge",)
    assert cache.observe("Namespace", space("edge", 3, name="dmz", tier="b")) == []
    assert cache.observe("Namespace", space("other", 4, name="dmz2")) == []
    assert cache.observe("Namespace", space("edge", 5)) == labelled
    assert cache.namespaces.carrying(WANTED) == ()
    assert cache.observe("Namespace", space("edge", 4, name="dmz")) == [], "a late event"
    assert cache.observe("Namespace", space("edge", 6, name="dmz")) == labelled
    # One of the same name that was made meanwhile stays.
    assert cache.observe("Namespace", space("edge", 7, "another", name="dmz")) == []
    assert cache.observe("Namespace", space("edge", 8, name="dmz"), deleted=True) == []
    assert cache.observe("Namespace", space("edge", 9, "another", name="dmz"), deleted=True) == labelled
    assert cache.namespaces.carrying(WANTED) == ()


def test_a_deletion_that_no_watch_told_is_found_by_the_list(cache: Cache) -> None:
    cache.observe("Namespace", space("edge", 2, name="dmz"))
    cache.observe("Namespace", space("late", 9, name="dmz"))
    assert cache.newest("Namespace") == 9
    assert cache.sweep("Namespace", (), 5) == [("team-a", "labelled")]
    assert cache.namespaces.carrying(WANTED) == ("late",)


def test_the_status_says_who_gets_in_and_how_sure_that_is() -> None:
    assert admitted(NAMED, ("dmz",)) == "dmz only"
    told = admitted(LABELLED, ("dmz", "mallory"))
    assert told.startswith("every namespace labelled name=dmz, now dmz, mallory; weaker than names")
    assert "now a, b, c, d, e and 2 more;" in admitted(LABELLED, tuple("abcdefg"))
    assert "now none: nobody gets in;" in admitted(LABELLED, ())
    assert "this operator may not see (Roles only);" in admitted(LABELLED, None)


def test_an_operator_that_is_let_in_itself_sees_nothing() -> None:
    environment = Environment("w:1", "zimage-system")
    assert is_admitted(LABELLED, environment, ("dmz", "zimage-system"))
    assert not is_admitted(LABELLED, environment, ("dmz",))
    narrow = parse(smallest(network={**BY_LABEL["network"], "proxyPodLabels": {"app": "traefik"}}))
    assert not is_admitted(narrow, environment, ("zimage-system",))


def test_where_it_may_not_look_it_names_itself_among_the_suspects() -> None:
    itself = "the operator's own namespace"
    assert itself in suspicion(LABELLED, Observed(clients=None))
    assert itself not in suspicion(LABELLED, Observed(clients=("dmz",)))
    assert itself not in suspicion(NAMED, Observed())


@pytest.mark.control_plane
def test_a_namespace_that_takes_the_label_is_named_in_the_status(operator: Operator, namespace: str) -> None:
    cluster, mark = operator.cluster, f"dmz-{namespace}"
    network = {"allowedNamespaceLabels": {"name": mark}}
    serve(cluster, namespace, gpu={"count": 0}, network=network, ingress=published(f"{mark}.example.org"))
    selector = cluster.get("netpol", "studio", "-n", namespace)["spec"]["ingress"][0]["from"]
    assert selector == [{"namespaceSelector": {"matchLabels": {"name": mark}}}]

    def told() -> str:
        return str(conditions(cluster, namespace)["NetworkPolicyReady"]["message"])

    assert f"every namespace labelled name={mark}, now none" in told()
    cluster.kubectl("label", "namespace", namespace, f"name={mark}")
    eventually(lambda: f"now {namespace}; weaker than names" in told(), "who took the label is named")
    cluster.kubectl("label", "namespace", namespace, "name-")
    eventually(lambda: "now none" in told(), "and no longer, once it is gone")
    # Back to names: `null` takes the field out, and its default lets dmz in again.
    patch = json.dumps({"spec": {"network": {"allowedNamespaceLabels": None}}})
    cluster.kubectl("-n", namespace, "patch", "zis", "studio", "--type=merge", "-p", patch)
    eventually(lambda: "admitted from dmz only" in told(), "names again")
    wait_for(cluster, namespace, "Ready")
