"""Helm as its users run it, with our chart."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cluster.control_plane import ControlPlane
from cluster.helm import helm
from support import ROOT, Operator

# Outside the cluster no fake pod's address is ever dialled.
NO_PROBES = {"ZIMAGE_OPERATOR_PROBE_INTERVAL_SECONDS": "0"}
CHART = ROOT / "charts" / "zimage-operator"


class Helm:
    """The program, with a home of its own; with a cluster it is the administrator there, or who a kubeconfig says."""

    def __init__(
        self, directory: Path, cluster: ControlPlane | None = None, kubeconfig: Path | None = None, major: int = 4
    ) -> None:
        self.program = helm(major)
        homes = {f"HELM_{name}_HOME": str(directory / name) for name in ("CACHE", "CONFIG", "DATA")}
        who = {"KUBECONFIG": str(kubeconfig or (cluster.kubeconfig if cluster else "/dev/null"))}
        self.environment = {**os.environ, **homes, **who}

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run it; the answer may be a failure."""
        command = [self.program, *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=180, cwd="/"
        )

    def __call__(self, *arguments: str | Path) -> str:
        """Run it and give what it printed; a failure fails the test."""
        answer = self.run(*arguments)
        assert answer.returncode == 0, f"helm {' '.join(map(str, arguments))}\n{answer.stdout}{answer.stderr}"
        return answer.stdout

    def render(self, values: dict[str, Any] | None = None, *options: str) -> list[dict[str, Any]]:
        """Give what the chart becomes."""
        text = self("template", "zimage-operator", CHART, "-n", "zimage-system", *options, *told(values or {}))
        return [item for item in yaml.safe_load_all(text) if item]


def told(values: dict[str, Any]) -> list[str]:
    """Give values as options, each as JSON: types arrive as they are."""
    return [part for name, value in values.items() for part in ("--set-json", f"{name}={json.dumps(value)}")]


@contextmanager
def running(cluster: ControlPlane, home: str, directory: Path) -> Iterator[Operator]:
    """The operator as the release made it: its ServiceAccount, its settings; only the pod is a process of ours.

    The fake node runs no image. The real one does in tests/demo.
    """
    shown = cluster.get("deployment", "zimage-operator", "-n", home)["spec"]["template"]["spec"]["containers"][0]["env"]
    settings = {item["name"]: item["value"] for item in shown} | NO_PROBES
    del settings["ZIMAGE_OPERATOR_PORT"], settings["ZIMAGE_OPERATOR_NAMESPACE"]
    directory.mkdir()
    operator = Operator(cluster, directory, home, **settings)
    operator.log.touch()
    operator.start_and_lead()
    yield operator
    operator.stop_in_order()
    assert "Traceback" not in operator.log.read_text()
