"""Every version of every object of one kind that a test run saw: what a watcher of the API would see."""

from __future__ import annotations

import http.client
import threading
import time
from typing import Any

from cluster.api import ApiError
from cluster.control_plane import Cluster
from support import PATIENCE_SECONDS, eventually


class Recorder:
    """Watches a collection in the background and keeps each version of each object.

    What happens after it was made is seen, but not at once: `catch_up` before you judge.
    """

    def __init__(self, cluster: Cluster, path: str) -> None:
        self.api, self.path = cluster.api(), path
        self.seen: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        # The newest version of each object that is still there, by uid.
        self.there: dict[str, str] = {}
        self.ready = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()
        assert self.ready.wait(PATIENCE_SECONDS), f"{path} cannot be listed"

    def run(self) -> None:
        while True:
            try:
                for kind, item in self.api.watch(self.path, self.listed):
                    self.take_in(kind, item)
            except (OSError, http.client.HTTPException, ValueError, ApiError):
                time.sleep(0.2)

    def listed(self, _: dict[str, Any]) -> None:
        """From here on the stream misses nothing; what was deleted before it began is in no stream."""
        self.there.clear()
        self.ready.set()

    def take_in(self, kind: str, item: dict[str, Any]) -> None:
        head = item["metadata"]
        if kind == "DELETED":
            self.there.pop(head["uid"], None)
        else:
            self.seen[head["uid"], head["resourceVersion"]] = item
            self.there[head["uid"]] = head["resourceVersion"]
        self.events.append((kind, item))

    def catch_up(self) -> None:
        """Wait until everything that has happened by now was seen."""

        def level() -> bool:
            items = self.api.request("GET", self.path)["items"]
            return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in items} == self.there

        eventually(level, f"the stream of {self.path} is level with the list")

    def versions(self, namespace: str = "", name: str = "") -> list[dict[str, Any]]:
        """What was seen, in order."""
        return [
            item
            for item in list(self.seen.values())
            if namespace in ("", item["metadata"]["namespace"]) and name in ("", item["metadata"]["name"])
        ]
