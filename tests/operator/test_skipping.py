"""What is equal to the live object is not sent, and of what was compared nothing is kept but facts."""

from __future__ import annotations

import tracemalloc
from copy import deepcopy
from typing import Any

import pytest

from support import smallest
from zimage_operator.api import Api
from zimage_operator.cache import Cache
from zimage_operator.children import children
from zimage_operator.cluster import Cluster
from zimage_operator.manifest import Environment, Manifest, ref, stamped
from zimage_operator.names import HASH_ANNOTATION, MANAGER
from zimage_operator.observed import PodFacts
from zimage_operator.spec import parse

SERVICE = parse({**smallest(namespace="team-a"), "metadata": {"name": "studio", "namespace": "team-a", "uid": "u"}})
WANTED = [stamped(item) for item in children(SERVICE, Environment("w:1", "zimage-system"))]


def live(item: Manifest, version: int = 1) -> Manifest:
    """As the API server gives it back: with fields of its own and of others, and who holds which."""
    found = deepcopy(item)
    held = {"manager": MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {f"f:part-{n}": {} for n in range(60)}}}
    found["metadata"] |= {"uid": f"{item['kind']}-{version}", "resourceVersion": str(version), "generation": 1}
    found["metadata"] |= {"managedFields": [held], "creationTimestamp": "2026-01-01T00:00:00Z"}
    found.setdefault("spec", {})["somebody-else-s"] = {"a": 1}
    return found


def changed(item: Manifest) -> Manifest:
    """The same with a field of ours changed by hand."""
    found = deepcopy(item)
    found["metadata"]["labels"]["app.kubernetes.io/part-of"] = "mallory"
    return found


def other(item: Manifest) -> Manifest:
    """The same with the digest of another intent: a field that we no longer send may still be there."""
    found = deepcopy(item)
    found["metadata"]["annotations"][HASH_ANNOTATION] = "0" * 24
    return found


@pytest.mark.parametrize("item", WANTED, ids=lambda item: item["kind"])
def test_equal_means_the_same_digest_and_the_same_fields(item: Manifest) -> None:
    """A digest alone can be forged with the edit; fields alone do not show what we stopped sending."""
    for number, (found, stands) in enumerate(
        [(live(item), True), (changed(live(item)), False), (other(live(item)), False)]
    ):
        cache = Cache()
        cluster = Cluster(Api(None), cache, lambda *_: None, lambda *_: None)
        cache.observe(item["kind"], found)
        seen = cache.children[ref(item)]
        assert cluster.stands(ref(item), item, seen) is stands, number
        # Nothing has to be compared again until an event tells of a change.
        assert (seen.body is None) is stands
        # Another wish is another digest, whether there is a body to compare or not.
        if stands:
            assert not cluster.stands(ref(item), other(item), seen)


def test_of_what_we_have_just_written_no_body_is_kept() -> None:
    cache = Cache()
    for item in WANTED:
        cache.observe(item["kind"], live(item), verified=True)
        assert cache.children[ref(item)].body is None
    labels = {"app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/instance": "studio"}
    head = {"namespace": "team-a", "name": "p", "uid": "p", "resourceVersion": "9", "labels": labels}
    owner = {"kind": "ReplicaSet", "name": "studio-x", "controller": True, "uid": "r"}
    cache.observe("Pod", {"metadata": {**head, "ownerReferences": [owner]}, "spec": {"containers": [{}] * 9}})
    (pod,) = (seen for seen in cache.children.values() if isinstance(seen.facts, PodFacts))
    assert pod.body is None


def test_a_thousand_services_are_remembered_small() -> None:
    """Bodies of eight children each would be 100 MiB."""
    deployment = next(item for item in WANTED if item["kind"] == "Deployment")
    cache, count = Cache(), 1000
    tracemalloc.start()
    for number in range(count):
        cache.observe("Deployment", named(live(deployment), f"s-{number}"), verified=True)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(cache.children) == count
    assert used / count < 4000  # bytes each


def named(item: Manifest, name: str) -> Manifest:
    head: dict[str, Any] = {**item["metadata"], "name": name, "uid": name}
    return {**item, "metadata": head}
