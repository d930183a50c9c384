"""The audit log of a long run, read once and in pieces: a hundred thousand requests with their bodies are gigabytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

OPERATOR = "system:serviceaccount:zimage-system:zimage-operator"
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
# Written without a change of anything: the Lease, and what is told to people.
ASIDE = frozenset({"leases", "events"})


@dataclass(frozen=True)
class Entry:
    """One request. `began`, `at`: when it came, and when it had been answered, in seconds since 1970."""

    began: float
    at: float
    user: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int

    @property
    def ours(self) -> bool:
        return self.user == OPERATOR

    @property
    def write(self) -> bool:
        """A write of the operator's to the cluster's state."""
        return self.ours and self.verb in WRITES and self.resource not in ASIDE


class Tail:
    """Gives what is new in an audit log since it was last asked."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset, self.rest = path, 0, b""

    def new(self) -> list[Entry]:
        with self.path.open("rb") as log:
            log.seek(self.offset)
            text = self.rest + log.read()
            self.offset = log.tell()
        *lines, self.rest = text.split(b"\n")
        return [entry(json.loads(line)) for line in lines if line]

    def until(self, enough: Callable[[list[Entry]], bool], seconds: float, every: float = 1.0) -> list[Entry]:
        """Collect until there is enough."""
        found, end = self.new(), time.monotonic() + seconds
        while not enough(found):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds:.0f} s; {len(found)} requests were seen")
            time.sleep(every)
            found += self.new()
        return found

    def quiet(self, seconds: float = 5.0, patience: float = 900.0) -> list[Entry]:
        """Collect until the operator has asked for nothing but its Lease for a while."""
        found: list[Entry] = []
        end, last = time.monotonic() + patience, time.monotonic()
        while time.monotonic() - last < seconds:
            if time.monotonic() > end:
                raise TimeoutError(f"the operator is not at rest after {patience:.0f} s")
            time.sleep(0.5)
            new = self.new()
            found += new
            if any(item.ours and item.resource not in ASIDE for item in new):
                last = time.monotonic()
        return found


def entry(raw: dict[str, Any]) -> Entry:
    target = raw.get("objectRef", {})
    return Entry(
        datetime.fromisoformat(raw["requestReceivedTimestamp"]).timestamp(),
        datetime.fromisoformat(raw["stageTimestamp"]).timestamp(),
        raw.get("user", {}).get("username", ""),
        raw["verb"],
        target.get("resource", raw["requestURI"].partition("?")[0]),
        target.get("subresource", ""),
        target.get("namespace", ""),
        target.get("name", ""),
        raw.get("responseStatus", {}).get("code", 0),
    )
