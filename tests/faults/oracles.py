"""What has to be true whatever was done to the operator: of the end, and of every revision on the way; pure."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from laws import assert_lawful

Object = dict[str, Any]
# What no two runs have in common (the mask of Acto's differential oracle, as far as our children have it).
HEAD = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences")
CLUSTER = ("clusterIP", "clusterIPs")


def masked(item: Object) -> str:
    """Give an object as text, without what differs from run to run and from namespace to namespace."""
    head = {key: value for key, value in item["metadata"].items() if key not in HEAD}
    head["annotations"] = {k: v for k, v in head.get("annotations", {}).items() if not k.startswith("zimage.dev/")}
    owners = [(one["kind"], one["name"], one.get("controller")) for one in item["metadata"].get("ownerReferences", [])]
    spec = {key: value for key, value in item.get("spec", {}).items() if key not in CLUSTER}
    text = json.dumps([item["kind"], head, owners, spec, item.get("data")], sort_keys=True)
    # Digests are of the host too.
    return re.sub(r"[0-9a-f]{24}", "DIGEST", text.replace(item["metadata"]["namespace"], "PLACE"))


def revisions_of(versions: Iterable[Object]) -> list[Object]:
    """Order revisions as they came about: one etcd numbers all kinds."""
    return sorted(versions, key=lambda item: int(item["metadata"]["resourceVersion"]))


def violations(versions: list[Object], allowed: set[str]) -> list[str]:
    """Say what was wrong at any revision of one namespace; `allowed`: every revision of the reference, masked."""
    found: list[str] = []
    kinds: defaultdict[str, list[Object]] = defaultdict(list)
    for item in revisions_of(versions):
        kinds[item["kind"]].append(item)
        if item["kind"] in ("NetworkPolicy", "Ingress", "Middleware") and masked(item) not in allowed:
            found.append(f"{item['kind']} was as it never is in the reference: {masked(item)[:600]}")
    for ingress in kinds["Ingress"]:
        chain = ingress["metadata"]["annotations"].get("traefik.ingress.kubernetes.io/router.middlewares", "")
        if not ingress["spec"].get("tls") or "-auth@" not in chain:
            found.append("an Ingress without TLS or without auth")
    before = [("NetworkPolicy", "Deployment"), ("NetworkPolicy", "Ingress"), ("Middleware", "Ingress")]
    found += [f"{late} before {early}" for early, late in before if first(kinds[late]) < first(kinds[early])]
    # Nobody deletes these by hand here: more than one of a name was made twice.
    for kind in ("NetworkPolicy", "Deployment", "Middleware", "Ingress"):
        made = defaultdict(set)
        for item in kinds[kind]:
            made[item["metadata"]["name"]].add(item["metadata"]["uid"])
        found += [f"{kind} {name} was made {len(uids)} times" for name, uids in made.items() if len(uids) > 1]
    return found + unlawful(kinds["ZImageService"])


def first(items: list[Object]) -> float:
    return int(items[0]["metadata"]["resourceVersion"]) if items else float("inf")


def unlawful(services: list[Object]) -> list[str]:
    """Hold every status against the laws; what it has observed never goes back."""
    found, last = [], -1
    for item in services:
        status = item.get("status", {})
        conditions = {one["type"]: one for one in status.get("conditions", [])}
        if not conditions:
            continue
        try:
            assert_lawful(item, conditions)
        except AssertionError as error:
            found.append(f"an unlawful status: {error}")
        if status["observedGeneration"] < last:
            found.append(f"observedGeneration went from {last} to {status['observedGeneration']}")
        last = max(last, status["observedGeneration"])
    return found
