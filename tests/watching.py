"""The real Prometheus of Debian on loopback: what it scrapes, the rules it judges by, and what it answers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from cluster.packages import ensure
from cluster.ports import free_port

Job = dict[str, Any]


def install() -> None:
    """Have the package."""
    with pytest.MonkeyPatch.context() as patch:
        # It would start a server of its own.
        patch.setenv("RUNLEVEL", "1")
        ensure(("prometheus",))


def job(name: str, port: int, labels: dict[str, str] | None = None, **more: Any) -> Job:
    """One target on loopback."""
    return {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": labels or {}}], **more}


@dataclass(frozen=True)
class Prometheus:
    """A server that runs."""

    address: str

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """The data of an answer; nothing while it does not listen yet."""
        try:
            with urlopen(f"{self.address}/api/v1/{path}?{urlencode(query)}", timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)["data"]
                return found
        except OSError:
            return {}

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series that a query gives now."""
        found: list[dict[str, Any]] = self.get("query", query=query).get("result", [])
        return found

    def firing(self) -> dict[str, list[dict[str, str]]]:
        """The labels of the alerts that fire, by their names."""
        found: dict[str, list[dict[str, str]]] = {}
        for one in self.get("alerts").get("alerts", []):
            if one["state"] == "firing":
                found.setdefault(one["labels"]["alertname"], []).append(one["labels"])
        return found


@contextmanager
def watching(folder: Path, jobs: list[Job], rules: Path | None = None) -> Iterator[Prometheus]:
    """Scrape and judge each second."""
    port = free_port()
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    rule_files = [str(rules)] if rules else []
    # JSON is YAML.
    (folder / "prometheus.yml").write_text(
        json.dumps({"global": every, "rule_files": rule_files, "scrape_configs": jobs})
    )
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        command = ["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)
