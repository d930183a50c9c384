"""`zimage-operator render`: what it prints is what the operator sends, to the byte, and the API server takes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.control_plane import ControlPlane
from laws import serve
from support import ROOT, Operator
from zimage_operator.cluster import NEW

pytestmark = pytest.mark.control_plane
GOLDEN = Path(__file__).parent / "golden"


def render(text: str) -> str:
    command = [sys.executable, "-m", "zimage_operator", "render", "-"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    answer = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_what_is_rendered_is_accepted(installed: ControlPlane, pod_monitors: None) -> None:
    """Every golden resource at once, by the client-side apply that people pipe it into."""
    installed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}})
    resources = [path.read_text() for path in sorted(GOLDEN.glob("*/resource.yaml"))]
    rendered = render("---\n".join(resources))
    printed = installed.kubectl("apply", "--dry-run=server", "-f", "-", input=rendered)
    assert len(printed.splitlines()) == len(list(yaml.safe_load_all(rendered))) > 10 * len(resources) / 2


def test_the_operator_sends_what_render_prints(operator: Operator, namespace: str, pod_monitors: None) -> None:
    cluster, more = operator.cluster, {"autoscaling": {"maxReplicas": 3}, "monitoring": {"podMonitor": True}}
    serve(cluster, namespace, gpu={"count": 0}, **more)
    printed = list(yaml.safe_load_all(render(cluster.kubectl("-n", namespace, "get", "zis", "studio", "-o", "yaml"))))
    sent = [
        entry["requestObject"]
        for entry in operator.writes()
        if entry["objectRef"].get("namespace") == namespace and entry["objectRef"]["resource"] != "zimageservices"
    ]
    # A new child is sent with a version that no object has (docs/decisions/0240).
    assert [item["metadata"].pop("resourceVersion") for item in sent] == [NEW] * len(sent)
    # In the order of application, and nothing twice.
    assert list(map(written, sent)) == list(map(written, printed))


def written(item: dict[str, Any]) -> str:
    """One object as text; the audit log does not keep the order of fields."""
    return json.dumps(item, sort_keys=True)
