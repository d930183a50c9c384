"""Who holds the server's connections, and whose has to make room for a newcomer: plain bookkeeping.

Only a connection that waits for its client can be taken: silent ones, idle ones, dripping ones, and
readers who do not read. One that waits for us is somebody's request and stays.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")


class Connections(Generic[K]):
    """At most `most` keys; each belongs to an address."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.addresses: dict[K, str] = {}
        # By address, the longest wait first: `waits` is told in the order of time.
        self.waiting: dict[str, OrderedDict[K, float]] = {}

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self.addresses)

    @property
    def full(self) -> bool:
        """No newcomer without a victim."""
        return self.open >= self.most

    def waits(self, key: K, address: str, since: float) -> None:
        """From now on (`since`, seconds of one clock) the client has to do something."""
        self.works(key, address)
        self.waiting.setdefault(address, OrderedDict())[key] = since

    def works(self, key: K, address: str) -> None:
        """From now on we have to do something."""
        self.gone(key)
        self.addresses[key] = address

    def gone(self, key: K) -> None:
        """Forget it; twice does no harm."""
        address = self.addresses.pop(key, "")
        line = self.waiting.get(address)
        if line is not None:
            line.pop(key, None)
            if not line:
                del self.waiting[address]

    def victim(self) -> K | None:
        """The longest wait at the address with the most waiting connections; None while all work.

        The address first, or whoever opens a thousand would push out the one of everybody else.
        """
        if not self.waiting:
            return None
        line = min(self.waiting.values(), key=lambda each: (-len(each), next(iter(each.values()))))
        return next(iter(line))
