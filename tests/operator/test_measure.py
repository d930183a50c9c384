"""What is exported of a service, and that all of it goes with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prometheus_client import REGISTRY

from zimage_operator.exposure import Exposure, Hole
from zimage_operator.manifest import Ref
from zimage_operator.measure import forget, measure
from zimage_operator.models import Choice, FetchReport, JobFacts, Weights
from zimage_operator.observed import Fetching, Observed, PodFacts, Report
from zimage_operator.reconcile import Outcome

KEY = ("measured", "studio")
AT = datetime(2026, 11, 24, tzinfo=UTC)
POD = PodFacts("measured", "p", "u", "studio", "r", "192.0.2.1", "Running", True, False, "", "", "", "", None)


def outcome(*holes: Hole, isolation: str = "blocked") -> Outcome:
    conditions = [{"type": "Ready", "status": "True"}]
    status: dict[str, Any] = {"conditions": conditions, "certificate": {"notAfter": "2027-01-01T00:00:00Z"}}
    reports = {"u": Report(isolation, at=AT)}
    return Outcome(status, observed=Observed(pods=(POD,), reports=reports, exposure=Exposure(holes)))


def series() -> dict[str, float]:
    return {
        f"{sample.name}/{sample.labels.get('reason') or sample.labels.get('isolation') or ''}": sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.labels.get("namespace") == KEY[0]
    }


def conditions() -> list[Any]:
    samples = (sample for family in REGISTRY.collect() for sample in family.samples)
    return [one for one in samples if one.name == "zimage_service_condition" and one.labels["namespace"] == KEY[0]]


def test_a_download_is_exported_while_it_runs() -> None:
    wanted = Weights("a/b", "1" * 40)
    job = JobFacts("j", "uid-j", wanted, (), AT, False, None, "")
    running = Fetching(Choice(wanted=wanted), job, (POD,), reports={"u": FetchReport("downloading", 37, 10**9)})
    name, status = "zimage_service_downloaded_ratio/", {"conditions": []}
    measure(KEY, Outcome(status, observed=Observed(fetching=running)))
    assert series()[name] == 0.37
    # No word of it yet is a download that stands at its beginning.
    measure(KEY, Outcome(status, observed=Observed(fetching=replace(running, reports={}))))
    assert series()[name] == 0
    for ended in (replace(running, job=replace(job, failed=AT)), Fetching(Choice(standing=wanted))):
        measure(KEY, Outcome(status, observed=Observed(fetching=ended)))
        assert name not in series()
    forget(KEY)


def test_holes_and_probes_are_exported_and_taken_back() -> None:
    hole = Hole("ExtraService", Ref("Service", "measured", "np"), "m")
    measure(KEY, outcome(hole, hole))
    found = series()
    ready = {one.labels["status"]: one.value for one in conditions()}
    assert ready == {"True": 1.0, "False": 0.0, "Unknown": 0.0}
    assert found["zimage_service_exposures/ExtraService"] == 2
    assert found["zimage_service_probed_pods/blocked"] == 1
    assert found["zimage_service_last_probe_timestamp_seconds/"] == AT.timestamp()
    measure(KEY, outcome(isolation="open"))
    found = series()
    assert "zimage_service_exposures/ExtraService" not in found
    assert "zimage_service_probed_pods/blocked" not in found
    assert found["zimage_service_probed_pods/open"] == 1
    forget(KEY)
    assert series() == {}
