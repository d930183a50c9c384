"""Alerts and dashboards by the real promtool: each fires where it should, and each panel shows something."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from releases import CHART
from support import ROOT
from watching import install
from zimage_operator import metrics

ALERTS = CHART / "files" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
OF = 'namespace="team-a", name="studio"'
ON = 'namespace="team-a", app_kubernetes_io_instance="studio", pod="studio-1"'
READY = f'zimage_service_condition{{{OF}, type="Ready", status="True"}}'
ENFORCED = f'zimage_service_condition{{{OF}, type="NetworkPolicyEnforced", status="%s"}}'
EXPIRY = f"zimage_service_certificate_expiry_timestamp_seconds{{{OF}}}"
DOWNLOAD = f"zimage_service_downloaded_ratio{{{OF}}}"
LEADER = 'zimage_operator_leader{pod="%s"}'
SYNC = 'zimage_operator_last_sync_timestamp_seconds{kind="pods", pod="a"}'
OOM = f'zimage_oom_rungs_total{{{ON}, rung="tiled"}}'
FULL = f'zimage_requests_total{{{ON}, outcome="%s"}}'
API = 'zimage_operator_api_requests_total{verb="patch", kind="pods", code="%s"}'
DAY = 86400

# Series as promtool writes them, one sample a minute: "0+60x120" begins at 0 and grows by 60, 120 times.
Series = dict[str, str]
# Alert: how it looks where it fires, and where it does not although it is near.
CASES: dict[str, tuple[Series, Series]] = {
    "ZImageServiceNotReady": ({READY: "0x120"}, {READY: "0x40 1x80"}),
    "ZImagePolicyNotEnforced": (
        {ENFORCED % "False": "1x120"},
        {ENFORCED % "Unknown": "1x120", ENFORCED % "False": "0x120"},
    ),
    "ZImageExposed": (
        {f'zimage_service_exposures{{{OF}, reason="NodePort"}}': "1x120"},
        {f'zimage_service_exposures{{{OF}, reason="NodePort"}}': "1x10 0x110"},
    ),
    # What is steady is slow, what ended is gone.
    "ZImageDownloadStuck": ({DOWNLOAD: "0.4x120"}, {DOWNLOAD: "0+0.01x119", DOWNLOAD.replace("studio", "b"): "0.4x80"}),
    "ZImageCertificateExpiresSoon": ({EXPIRY: f"{20 * DAY}x120"}, {EXPIRY: f"{31 * DAY}x120"}),
    "ZImageCertificateExpiresThisWeek": ({EXPIRY: f"{5 * DAY}x120"}, {EXPIRY: f"{8 * DAY}x120"}),
    "ZImageCertificateExpiresToday": ({EXPIRY: "0x120"}, {EXPIRY: f"{2 * DAY}x120"}),
    "ZImageAuthFailuresRising": (
        {f'zimage_auth_failures_total{{{ON}, reason="wrong"}}': "0+120x120"},
        {f'zimage_auth_failures_total{{{ON}, reason="wrong"}}': "0+30x120"},
    ),
    "ZImageQueueFull": ({FULL % "queue_full": "0+1x120"}, {FULL % "queue_full": "7x120", FULL % "success": "0+60x120"}),
    "ZImageGpuMemoryFragmented": (
        {f"zimage_gpu_fragmentation_ratio{{{ON}}}": "0.5x120"},
        {f"zimage_gpu_fragmentation_ratio{{{ON}}}": "0.2x120"},
    ),
    "ZImageOutOfGpuMemory": ({OOM: "0x110 1x10"}, {OOM: "0x60 1x60"}),
    "ZImageOperatorWithoutLeader": (
        {LEADER % "a": "0x120", LEADER % "b": "0x120"},
        {LEADER % "a": "0x120", LEADER % "b": "1x120"},
    ),
    # The one that does not lead may lag; what acts must not.
    "ZImageWatchStale": (
        {SYNC: "0x120", LEADER % "a": "1x120"},
        {SYNC: "0+60x120", LEADER % "a": "1x120", SYNC.replace('"a"', '"b"'): "0x120", LEADER % "b": "0x120"},
    ),
    "ZImageApiThrottled": ({API % "429": "0+30x120"}, {API % "429": "0+1x120", API % "200": "0+600x120"}),
}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def case(alert: str, series: Series, firing: int) -> dict[str, Any]:
    """Two hours in, the alert fires once or not at all."""
    expression = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    expected = [{"labels": "{}", "value": firing}] if firing else []
    return {
        "name": f"{alert}: {firing}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": "119m", "exp_samples": expected}],
    }


@pytest.fixture(scope="module", autouse=True)
def promtool() -> None:
    install()


def judged(folder: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    path = folder / "tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    return subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False, timeout=120)


def cases(*firing: int) -> list[dict[str, Any]]:
    """Every case; `firing` is what is expected of the first and of the second of each pair."""
    pairs = ((alert, zip(pair, firing, strict=True)) for alert, pair in CASES.items())
    return [case(alert, series, count) for alert, pair in pairs for series, count in pair]


def test_each_alert_fires_where_it_should_and_is_silent_where_it_should(tmp_path: Path) -> None:
    tests = cases(1, 0)
    answer = judged(tmp_path, tests)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_judge_sees_what_is_wrong(tmp_path: Path) -> None:
    """Each case turned round must fail: none of them passes whatever the alert says."""
    answer = judged(tmp_path, cases(0, 1))
    failed = Counter(re.findall(r'alertname=\\"(\w+)', answer.stdout + answer.stderr))
    assert failed == dict.fromkeys(CASES, 2)


def test_without_any_operator_somebody_is_told(tmp_path: Path) -> None:
    assert judged(tmp_path, [case("ZImageOperatorWithoutLeader", {}, 1)]).returncode == 0


def test_every_alert_has_its_cases_and_its_page() -> None:
    alerts = [rule["alert"] for rule in rules()]
    assert sorted(alerts) == sorted(CASES)
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == {alert.lower() for alert in alerts}
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == f"RUNBOOKS/{rule['alert'].lower()}.md"
        text = (RUNBOOKS / f"{rule['alert'].lower()}.md").read_text()
        assert text.startswith(f"# {rule['alert']}\n")
        assert "## What it means" in text
        assert "## What to do" in text
        assert f"]({rule['alert'].lower()}.md)" in (RUNBOOKS / "README.md").read_text()


PARTS = {
    "histogram": ("_bucket", "_count", "_sum"),
    "summary": ("_count", "_sum"),
    "counter": ("_total",),
    "info": ("_info",),
}


def known() -> dict[str, list[str]]:
    """Every series there is, with its labels: the operator's from its objects, the worker's from the generated page."""
    collectors = [item for item in vars(metrics).values() if isinstance(item, MetricWrapperBase)]
    found = [
        (item.name, item.type, [*each._labelnames, "pod", "job"]) for each in collectors for item in each.describe()
    ]
    # This one is no object of the library's: it writes its series when it is asked.
    found += [(item.name, item.type, [*item._labelnames, "pod", "job"]) for item in metrics.CONDITIONS.collect()]
    page = (ROOT / "docs" / "reference" / "worker-metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+?)(?:_total)?` \| (\w+) \| (.*?) \|", page, re.MULTILINE)
    # What the scrape adds (the chart's PodMonitor).
    scraped = ["namespace", "pod", "app_kubernetes_io_instance"]
    found += [(name, kind, [*re.findall(r"`(\w+)`", labels), *scraped]) for name, kind, labels in rows]
    return {name + part: labels for name, kind, labels in found for part in PARTS.get(kind, ("",))}


def used(text: str) -> set[str]:
    return set(re.findall(r"\bzimage_\w+", text))


def test_every_metric_of_the_alerts_exists() -> None:
    asked = {name for rule in rules() for name in used(rule["expr"])}
    assert len(asked) >= 10
    assert asked - set(known()) == set()


def test_the_check_of_metrics_can_fail() -> None:
    assert used("rate(zimage_made_up_total[5m])") - set(known()) == {"zimage_made_up_total"}


def test_what_the_pages_name_exists() -> None:
    """Fields of the resource, values of the chart, and metrics."""
    spec, status = (crd()[part]["properties"] for part in ("spec", "status"))
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = {(path.name, name) for path in RUNBOOKS.glob("*.md") for name in dotted(path.read_text())}
    assert len(named) >= 10
    missing = {(page, name) for page, name in named if not (in_schema(spec, name) or in_values(values, name))}
    assert missing == set()
    assert in_schema(status, "exposures")
    asked = {(path.name, name) for path in RUNBOOKS.glob("*.md") for name in used(path.read_text())}
    # A page may call a histogram by its own name.
    assert {(page, name) for page, name in asked if not any(each.startswith(name) for each in known())} == set()


def crd() -> dict[str, Any]:
    document = yaml.safe_load((CHART / "files" / "crd.yaml").read_text())
    found: dict[str, Any] = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


def dotted(text: str) -> set[str]:
    names = re.findall(r"`([a-z][A-Za-z]*(?:\.[a-zA-Z]+)+)(?:: \w+)?`", text)
    return {name for name in names if not name.startswith("status.")}


def in_schema(properties: dict[str, Any], name: str) -> bool:
    head, _, rest = name.partition(".")
    return head in properties and (not rest or in_schema(properties[head].get("properties", {}), rest))


def in_values(values: Any, name: str) -> bool:
    head, _, rest = name.partition(".")
    return isinstance(values, dict) and head in values and (not rest or in_values(values[head], rest))


BOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))


def panels() -> list[dict[str, Any]]:
    return [panel for path in BOARDS for panel in json.loads(path.read_text())["panels"]]


def test_every_panel_shows_something_where_there_is_something(tmp_path: Path) -> None:
    """Each query, run over every series there is, gives one line that has every label of its legend."""
    assert len(panels()) >= 25
    answer = judged(tmp_path, [shown(panel) for panel in panels()])
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_a_panel_of_a_label_that_is_not_there_is_found(tmp_path: Path) -> None:
    target = {"expr": "sum(rate(zimage_images_total[$__rate_interval]))", "legendFormat": "{{namespace}}"}
    assert judged(tmp_path, [shown({"title": "bad", "targets": [target]})]).returncode


def shown(panel: dict[str, Any]) -> dict[str, Any]:
    (target,) = panel["targets"]
    query = target["expr"].replace("$__rate_interval", "5m").replace("$namespace", ".*")
    labels = re.findall(r"{{(\w+)}}", target["legendFormat"])
    expected = "{" + ", ".join(f'{label}="v"' for label in labels) + "}"
    asked = {"expr": f"count by ({', '.join(labels)}) ({query})", "eval_time": "60m"}
    return {
        "interval": "1m",
        "input_series": [{"series": one, "values": "0+60x60"} for one in series()],
        "promql_expr_test": [{**asked, "exp_samples": [{"labels": expected, "value": 1}]}],
    }


def series() -> list[str]:
    """One of each, with every label; of the conditions the two that panels ask for."""
    made = []
    for name, labels in known().items():
        values = dict.fromkeys(labels, "v")
        if name == "zimage_service_condition":
            made += [{**values, "type": kind, "status": state, "__name__": name} for kind, state in CONDITIONS]
        elif name.endswith("_bucket"):
            made += [{**values, "le": bound, "__name__": name} for bound in ("1", "+Inf")]
        else:
            made.append({**values, "__name__": name})
    return ["{" + ", ".join(f'{key}="{value}"' for key, value in one.items()) + "}" for one in made]


CONDITIONS = (("Ready", "True"), ("NetworkPolicyEnforced", "False"))
