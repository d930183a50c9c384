"""What is done, and the harm that is done to it; pure.

A workload is learned once without any harm: how many writes it takes. Then each fault is tried at
each write, in a namespace of its own, so that one operator goes through dozens of plans at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from faults.proxy import FAULTS, Request
from support import published, smallest

JWT = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"secretName": "studio-jwks"}}
CAMPAIGN = "campaign=yes"
KILLS = ("kill-before", "kill-after")


@dataclass(frozen=True)
class Plan:
    """One fault at one write of one namespace; fault "" is a reference."""

    fault: str
    write: int

    @property
    def place(self) -> str:
        return f"c-{self.fault or 'reference'}-{self.write}"


REFERENCES = (Plan("", 1), Plan("", 2))


def steps(place: str) -> list[dict[str, Any]]:
    """The life of one service, without workers: published, other doors and another way in, taken back."""
    base: dict[str, Any] = {"namespace": place, "replicas": 0, "gpu": {"count": 0}}
    doors = {"network": {"allowedNamespaces": ["dmz", "other"]}, "auth": {"jwt": JWT}}
    host = {"ingress": published(f"{place}.example.org")}
    life = [smallest(**base, **host), smallest(**base, **host, **doors), smallest(**base, **doors, ingress=None)]
    label, _, value = CAMPAIGN.partition("=")
    return [{**item, "metadata": {**item["metadata"], "labels": {label: value}}} for item in life]


def every(writes: int, faults: Iterable[str] = FAULTS) -> Iterator[Plan]:
    """Each fault at each write."""
    return (Plan(fault, number) for fault in faults for number in range(1, writes + 1))


def some(writes: int) -> list[Plan]:
    """The lost answer, which is the worst of them, at every second write; the others at a few, and a few kills."""
    spread = (1, writes // 2, writes)
    others = [Plan(fault, number) for fault in FAULTS if fault != "drop-after" for number in spread]
    kills = [Plan("kill-after", 2), Plan("kill-before", 5), Plan("kill-after", writes - 3)]
    lost = [Plan("drop-after", number) for number in range(1, writes + 1, 2)]
    return [*lost, *others, *kills]


@dataclass
class Harmful:
    """Does the harm of several plans, once each; asked from the proxy's thread."""

    plans: dict[str, Plan]
    done: set[Plan] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> str:
        plan = self.plans.get(request.namespace)
        with self.lock:
            if plan is None or not plan.fault or request.number != plan.write or plan in self.done:
                return ""
            self.done.add(plan)
            return plan.fault
