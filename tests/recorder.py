"""Every version of every object of one kind that a test run saw: what a watcher of the API would see."""

from __future__ import annotations

import http.client
import threading
import time
from typing import Any

from cluster.api import Api, ApiError
from cluster.control_plane import ControlPlane


class Recorder:
    """Watches a collection in the background and keeps each version of each object."""

    def __init__(self, cluster: ControlPlane, path: str) -> None:
        self.api, self.path = Api(cluster.kubeconfig), path
        self.seen: dict[tuple[str, str], dict[str, Any]] = {}
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                for _, item in self.api.watch(self.path):
                    head = item["metadata"]
                    self.seen[head["uid"], head["resourceVersion"]] = item
            except (OSError, http.client.HTTPException, ValueError, ApiError):
                time.sleep(0.2)

    def versions(self, namespace: str = "", name: str = "") -> list[dict[str, Any]]:
        """What was seen, in order."""
        return [
            item
            for item in list(self.seen.values())
            if namespace in ("", item["metadata"]["namespace"]) and name in ("", item["metadata"]["name"])
        ]
