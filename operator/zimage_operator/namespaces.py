"""The namespaces of the cluster by their labels: whom a service lets in that names labels in place of names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

Raw = Mapping[str, Any]
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NamespaceFacts:
    """One namespace as it was last seen."""

    uid: str
    version: int
    labels: Labels


class Namespaces:
    """The namespaces that were last seen; empty where the operator may not look at any."""

    def __init__(self) -> None:
        self.seen: dict[str, NamespaceFacts] = {}

    def observe(self, item: Raw, *, deleted: bool) -> tuple[Labels | None, Labels | None]:
        """Take in one namespace; give its labels before and after, None where it is not there."""
        head = item["metadata"]
        name, uid, version = head["name"], head["uid"], int(head["resourceVersion"])
        old = self.seen.get(name)
        before = old.labels if old else None
        if deleted:
            if old is None or old.uid != uid:
                return before, before
            del self.seen[name]
            return before, None
        if old and old.uid == uid and old.version >= version:
            return before, before
        new = NamespaceFacts(uid, version, head.get("labels") or {})
        self.seen[name] = new
        return before, new.labels

    def sweep(self, alive: Collection[str], up_to: int) -> list[Labels]:
        """Forget what a full list no longer holds; give the labels of each."""
        gone = {name: one for name, one in self.seen.items() if one.uid not in alive and one.version <= up_to}
        for name in gone:
            del self.seen[name]
        return [one.labels for one in gone.values()]

    def carrying(self, wanted: Labels) -> tuple[str, ...] | None:
        """Name the namespaces that carry all of some labels; None where none is known at all."""
        if not self.seen:
            return None
        return tuple(sorted(name for name, one in self.seen.items() if carries(one.labels, wanted)))


def carries(labels: Labels | None, wanted: Labels) -> bool:
    """Whether a namespace that is there has all of some labels."""
    return labels is not None and all(labels.get(key) == value for key, value in wanted.items())


def asked(body: Raw) -> Labels:
    """Give the labels by which a raw resource lets namespaces in; empty where names decide."""
    return ((body.get("spec") or {}).get("network") or {}).get("allowedNamespaceLabels") or {}
