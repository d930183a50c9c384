"""A line in which every namespace has its turn: ten thousand keys of one hold up the others by one each.

Within a namespace it is first come, first served. Every step costs the same, however long the line is.
"""

from __future__ import annotations

from .manifest import Key


class FairLine:
    """Keys that wait, each once."""

    def __init__(self) -> None:
        # Dictionaries for their order: namespaces in the order of their turns, in each the keys as they came.
        self.places: dict[str, dict[Key, None]] = {}
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __contains__(self, key: Key) -> bool:
        return key in self.places.get(key[0], ())

    def append(self, key: Key) -> None:
        """Put a key in line; one that waits already keeps its place."""
        if key not in self:
            self.places.setdefault(key[0], {})[key] = None
            self.count += 1

    def popleft(self) -> Key:
        """Give the next key, and send its namespace to the end.

        Raises:
            IndexError: nobody waits.
        """
        if not self.places:
            raise IndexError("nobody waits")
        place = next(iter(self.places))
        key = next(iter(self.places[place]))
        keys = self.places.pop(place)
        del keys[key]
        self.count -= 1
        if keys:
            self.places[place] = keys
        return key

    def remove(self, key: Key) -> None:
        """Take a key out of the line, wherever it stands."""
        keys = self.places[key[0]]
        del keys[key]
        self.count -= 1
        if not keys:
            del self.places[key[0]]
