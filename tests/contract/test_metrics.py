"""The metric that autoscalers read: documented under its name, from figures that the worker exports."""

from __future__ import annotations

import re

from prometheus_client import generate_latest

from support import ROOT
from zimage_operator.names import QUEUE_METRIC
from zimage_worker.metrics import Metrics


def test_the_documented_rule_is_made_of_what_the_worker_exports() -> None:
    text = (ROOT / "docs" / "autoscaling.md").read_text()
    assert f"name: {{as: {QUEUE_METRIC}}}" in text
    exported = set(re.findall(r"^(zimage_\w+)", generate_latest(Metrics().registry).decode(), re.MULTILINE))
    named = set(re.findall(r"zimage_\w+", text)) - {QUEUE_METRIC}
    assert named
    assert named <= exported
