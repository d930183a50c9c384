"""What becomes of fetched models, and what is said of them, from facts alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support import smallest
from zimage_operator.cache import Cache
from zimage_operator.children import children
from zimage_operator.children.download import download_job
from zimage_operator.cluster import Cluster
from zimage_operator.manifest import Environment, Manifest, Ref
from zimage_operator.models import Choice, ClaimFacts, FetchReport, JobFacts, Weights, choose, read_job, read_report
from zimage_operator.observed import DeploymentFacts, Fetching, Observed, PodFacts
from zimage_operator.spec import parse
from zimage_operator.status import status

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
REPO = "Tongyi-MAI/Z-Image-Turbo"
ONE, TWO, THREE = (Weights(REPO, digit * 40) for digit in "123")
CLAIM = ClaimFacts(NOW - timedelta(days=9), bound=True)
ENVIRONMENT = Environment("registry.example.org/zimage-worker:0.1.0", "zimage-system")


def body(weights: Weights = ONE, **more: Any) -> dict[str, Any]:
    source = {"repo": weights.repo, "revision": weights.revision, **more.pop("source", {})}
    return smallest(namespace="team-a", model={"huggingFace": source}, **{"ingress": None, **more})


def job(weights: Weights, *, complete: bool = True, hours: int = 1, **more: Any) -> JobFacts:
    name = f"studio-download-{weights.revision[0]}"
    facts = JobFacts(name, f"uid-{name}", weights, (), NOW - timedelta(hours=hours), complete, None, "")
    return replace(facts, **more)


# --- which model runs, which is fetched, which is kept


def test_a_new_service_fetches_and_runs_nothing() -> None:
    assert choose(parse(body()), [], None, "", ()) == Choice(wanted=ONE)


def test_what_is_complete_runs_and_its_job_is_the_one_record() -> None:
    jobs = [job(ONE), job(TWO, hours=3)]
    assert choose(parse(body()), jobs, CLAIM, TWO.folder, ()) == Choice(ONE, records=frozenset({jobs[0].name}))


def test_the_former_model_runs_until_the_other_is_complete() -> None:
    jobs = [job(ONE), job(TWO, complete=False, hours=0)]
    found = choose(parse(body(TWO)), jobs, CLAIM, ONE.folder, (ONE.folder,))
    assert found == Choice(ONE, TWO, (ONE.folder,), frozenset({jobs[0].name}))


def test_of_two_that_are_complete_the_one_that_runs_goes_on() -> None:
    jobs = [job(ONE, hours=5), job(TWO, hours=1)]
    assert choose(parse(body(THREE)), jobs, CLAIM, ONE.folder, ()).standing == ONE
    assert choose(parse(body(THREE)), jobs, CLAIM, "forged", ()).standing == TWO


def test_no_folder_that_a_pod_reads_is_cleared_even_without_its_record() -> None:
    """Somebody cleared the finished Jobs away, and a rollout is under way."""
    found = choose(parse(body(THREE)), [], CLAIM, TWO.folder, (ONE.folder, TWO.folder, "../../etc", ""))
    assert found.standing is None
    assert set(found.keep) == {ONE.folder, TWO.folder}


def test_a_new_volume_is_an_empty_one() -> None:
    fresh = ClaimFacts(NOW, bound=True)
    assert choose(parse(body()), [job(ONE)], fresh, ONE.folder, ()) == Choice(wanted=ONE)
    assert choose(parse(body()), [job(ONE)], None, ONE.folder, ()).standing is None


def test_with_another_source_no_record_is_kept() -> None:
    assert choose(parse(smallest()), [job(ONE)], CLAIM, ONE.folder, ()) == Choice()


# --- which Jobs are put away


class Deletions(Cluster):
    """A cluster whose deletions and alarms are noted, not made."""

    def __init__(self, jobs: list[Manifest]) -> None:
        self.gone: list[str] = []
        self.alarms: list[float] = []
        super().__init__(None, Cache(), lambda *_: None, lambda _, seconds: self.alarms.append(seconds))  # type: ignore[arg-type]
        for item in jobs:
            self.cache.observe("Job", item)

    async def delete(self, target: Ref, uid: str) -> None:
        self.gone.append(f"{target.name} {uid}")


def live(name: str, weights: Weights, condition: str = "", minutes_ago: int = 0) -> Manifest:
    """A Job of ours as the API server gives it."""
    item = download_job(parse(body()), ENVIRONMENT, Choice(wanted=weights))
    since = (NOW - timedelta(minutes=minutes_ago)).isoformat()
    owner = {**item["metadata"]["ownerReferences"][0], "uid": "ours"}
    item["metadata"] |= {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "ownerReferences": [owner]}
    conditions = [{"type": condition, "status": "True", "lastTransitionTime": since}] if condition else []
    return item | {"status": {"conditions": conditions}}


def put_away(jobs: list[Manifest], kept: list[Manifest], records: tuple[str, ...] = ()) -> Deletions:
    cluster = Deletions(jobs)
    service = replace(parse(body()), uid="ours")
    asyncio.run(cluster.retire(service, Choice(wanted=ONE, records=frozenset(records)), kept, NOW))
    return cluster


@pytest.mark.parametrize(("minutes", "gone"), [(1, []), (4, []), (5, ["a uid-a"]), (60, ["a uid-a"])])
def test_a_job_that_failed_is_made_anew_after_five_minutes(minutes: int, gone: list[str]) -> None:
    failing = live("a", ONE, "Failed", minutes)
    cluster = put_away([failing], [failing])
    assert cluster.gone == gone
    # Nothing else would wake the service at that time.
    assert cluster.alarms == ([] if gone else [60.0 * (5 - minutes)])


def test_only_what_stands_for_something_is_left() -> None:
    jobs = [live("wanted", ONE), live("serving", TWO, "Complete"), live("stale", THREE), live("old", THREE, "Complete")]
    strange = live("strange", THREE)
    strange["metadata"]["ownerReferences"][0]["uid"] = "somebody"
    cluster = put_away([*jobs, strange], jobs[:1], ("serving",))
    assert cluster.gone == ["old uid-old", "stale uid-stale"]


# --- the Job


def built(**more: Any) -> Manifest:
    service = parse(body(**more))
    return download_job(service, ENVIRONMENT, Choice(wanted=ONE, keep=(TWO.folder,)))


def test_a_job_is_read_back_as_it_was_built() -> None:
    live = built() | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    live["metadata"] |= {"uid": "u", "creationTimestamp": "2026-11-25T11:00:00Z"}
    facts = read_job(live)
    assert facts
    assert (facts.weights, facts.keep, facts.complete, facts.failed) == (ONE, (TWO.folder,), True, None)


def test_another_pod_is_another_job_but_what_is_kept_is_not() -> None:
    service = parse(body())
    name = built()["metadata"]["name"]
    assert download_job(service, ENVIRONMENT, Choice(wanted=ONE))["metadata"]["name"] == name
    for change in ({"source": {"endpoint": "https://hub.example.org"}}, {"source": {"tokenSecretName": "hub-token"}}):
        assert built(**change)["metadata"]["name"] != name


def test_another_endpoint_or_token_is_the_same_model() -> None:
    elsewhere = parse(body(source={"endpoint": "https://hub.example.org", "tokenSecretName": "hub-token"}))
    assert choose(elsewhere, [job(ONE)], CLAIM, "", ()).standing == ONE


@pytest.mark.parametrize("args", [[], ["fetch", "--repo", "../..", "--revision", "1" * 40], ["serve"]])
def test_what_is_no_download_is_none(args: list[str]) -> None:
    live = built()
    live["spec"]["template"]["spec"]["containers"][0]["args"] = args
    live["metadata"] |= {"uid": "u"}
    assert read_job(live) is None


def test_the_workers_read_what_was_fetched_and_cannot_write_it() -> None:
    items = children(parse(body()), ENVIRONMENT)
    pod = next(item for item in items if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    volume = next(item for item in pod["volumes"] if item["name"] == "model")
    assert volume["persistentVolumeClaim"] == {"claimName": "studio-model", "readOnly": True}
    secrets = [item["secret"]["secretName"] for item in pod["volumes"] if "secret" in item]
    assert "hub-token" not in secrets


def test_the_download_lets_nobody_in_but_the_operator_and_out_to_the_hub_only() -> None:
    service = parse(body(source={"endpoint": "http://hub.example.org:8080"}))
    policy = next(item for item in children(service, ENVIRONMENT) if item["metadata"]["name"] == "studio-download")
    (rule,) = policy["spec"]["ingress"]
    assert [set(peer) for peer in rule["from"]] == [{"namespaceSelector", "podSelector"}]
    assert rule["ports"] == [{"port": 9090, "protocol": "TCP"}]
    assert [[port["port"] for port in out["ports"]] for out in policy["spec"]["egress"]] == [[53, 53], [443, 8080]]
    # Wherever the cluster's DNS is: seen on the node, where it is no pod of kube-system.
    assert "to" not in policy["spec"]["egress"][0]
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "download"


def test_on_a_volume_of_one_node_all_pods_share_it() -> None:
    def rule(**storage: Any) -> list[object]:
        model = {"huggingFace": {"repo": REPO, "revision": "1" * 40}, "storage": storage}
        items = children(parse(smallest(model=model)), ENVIRONMENT)
        templates = [item["spec"]["template"] for item in items if item["kind"] in ("Job", "Deployment")]
        # Each pod satisfies its own rule, or the first would never be placed.
        for template in templates if not storage else []:
            (term,) = template["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert term["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        return [template["spec"].get("affinity") for template in templates]

    assert all(rule())
    assert rule(accessMode="ReadWriteMany") == [None, None]


# --- what is said

POD = PodFacts("team-a", "d-x", "u", "studio", "", "192.0.2.1", "Running", True, False, "", "", "", "", None)
STANDING = frozenset({Ref("NetworkPolicy", "team-a", "studio")})
RUNNING = replace(job(ONE, complete=False), uid="j")
FETCH = replace(POD, job="j")


def failed(code: int, reason: str = "", message: str = "", **more: Any) -> PodFacts:
    report = FetchReport(phase="ended", reason=reason, message=message) if reason else None
    return replace(FETCH, phase="Failed", exit_code=code, report=report, **more)


def told(pod: PodFacts | None, given_up: bool = False, source: dict[str, Any] | None = None) -> dict[str, Any]:
    """What Ready and ModelReady say."""
    pods = (pod,) if pod else ()
    facts = replace(RUNNING, failed=NOW - timedelta(minutes=1), reason="PodFailurePolicy") if given_up else RUNNING
    observed = Observed(fetching=Fetching(Choice(wanted=ONE), facts, pods, CLAIM))
    return conditions(observed, parse(body(source=source or {})))["ModelReady"]


def conditions(observed: Observed, service: Any) -> dict[str, dict[str, Any]]:
    return {item["type"]: item for item in status(service, observed, {}, NOW)["conditions"]}


TROUBLE: dict[str, tuple[PodFacts, str, str]] = {
    "no right": (failed(10, "AuthRequired", "the hub answered 401"), "AuthRequired", "tokenSecretName"),
    "no commit": (failed(11, "RevisionNotFound", "no such commit"), "RevisionNotFound", "model.huggingFace.revision"),
    "no repository": (failed(12, "RepoNotFound", "none"), "RepoNotFound", "correct model.huggingFace.repo"),
    "pickles": (failed(13, "NotServable", "pickled weights"), "NotServable", "another model.huggingFace.repo"),
    "other bytes": (failed(14, "ChecksumMismatch", "other bytes"), "ChecksumMismatch", "other bytes"),
    "full": (failed(15, "NoSpace", "the disk is full"), "NoSpace", "raise model.storage.size"),
    "no answer": (failed(16, "HubUnavailable", "503"), "HubUnavailable", "may reach https://huggingface.co"),
    "no last word": (failed(15), "NoSpace", "ended with code 15: see kubectl -n team-a logs job/"),
    "killed": (failed(137, last_exit="OOMKilled"), "OOMKilled", "more memory"),
    "a fault": (failed(1, "Fault", "a fault of the program: KeyError"), "DownloadFailed", "KeyError"),
    "nowhere": (replace(FETCH, phase="Pending", unscheduled="0/1 nodes"), "Unschedulable", "0/1 nodes"),
    "no image": (replace(FETCH, phase="Pending", waiting="ImagePullBackOff"), "ImagePullFailed", "cannot be pulled"),
    "no volume": (
        replace(FETCH, phase="Pending", unscheduled="pod has unbound immediate PersistentVolumeClaims"),
        "VolumePending",
        "describe pvc studio-model",
    ),
}


@pytest.mark.parametrize("case", TROUBLE)
def test_each_trouble_has_its_reason_and_its_next_step(case: str) -> None:
    pod, reason, advice = TROUBLE[case]
    found = told(pod)
    assert (found["status"], found["reason"]) == ("False", reason)
    assert advice in found["message"]


def test_a_job_that_was_given_up_says_when_it_is_tried_again_and_how_at_once() -> None:
    found = told(failed(10, "AuthRequired", "the hub answered 401"), given_up=True)
    assert "tried again at 12:04 UTC, at once after kubectl -n team-a delete job studio-download-1" in found["message"]
    # Its pods were cleared away.
    assert told(None, given_up=True)["reason"] == "DownloadFailed"


def test_a_missing_token_is_the_secret_s_fault_and_no_secret_is_told() -> None:
    message = "HF_TOKEN_PATH: /etc/zimage/hub/token cannot be read (No such file or directory); mount the Secret"
    found = told(failed(2, "WrongUse", message), source={"tokenSecretName": "hub-token"})
    assert found["reason"] == "SecretMissing"
    assert "create secret generic hub-token --from-literal=token=" in found["message"]


def test_how_far_it_is() -> None:
    def at(report: FetchReport | None) -> tuple[str, str]:
        reports = {"u": report} if report else {}
        state = Fetching(Choice(wanted=ONE), RUNNING, (FETCH,), CLAIM, reports)
        observed = Observed(existing=STANDING, fetching=state)
        found = conditions(observed, parse(body()))
        assert found["Ready"]["reason"] == found["ModelReady"]["reason"]
        assert found["Ready"]["status"] == "Unknown"
        assert found["WorkloadReady"]["reason"] == "WaitingForModel"
        return found["ModelReady"]["reason"], found["ModelReady"]["message"]

    assert at(None) == ("Downloading", f"{REPO} at 111111111111 is being downloaded")
    halfway = FetchReport("downloading", 37, 30_700_000_000)
    assert at(halfway) == ("Downloading", f"{REPO} at 111111111111: 37 % of 30.7 GB")
    assert at(replace(halfway, phase="verifying"))[0] == "Verifying"


def test_the_former_goes_on_serving_and_it_is_said() -> None:
    serving = DeploymentFacts(1, 1, 1, 1, 1, 1, "r", {}, model=ONE.folder)
    state = Fetching(Choice(ONE, TWO), replace(RUNNING, weights=TWO), (FETCH,), CLAIM)
    observed = Observed(existing=STANDING, deployment=serving, fetching=state)
    found = status(parse(body(TWO)), observed, {}, NOW)
    ready = next(item for item in found["conditions"] if item["type"] == "Ready")
    assert ready["message"].endswith("(111111111111 goes on serving)")
    assert found["model"] == {"revision": ONE.revision}


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "1", "{", '{"bytesDone": "x"}', '{"bytesTotal": 1e999}', '{"message": 7, "phase": []}'],
)
def test_a_report_of_a_stranger_harms_nobody(text: str) -> None:
    found = read_report(text)
    assert found is None or found == FetchReport()


def test_a_report_is_one_printable_line() -> None:
    found = read_report('{"reason": "a b", "message": "one\\ntwo\\u001b[31m", "bytesDone": 9, "bytesTotal": 3}')
    assert found
    assert (found.reason, found.message, found.percent) == ("", "one two [31m", 99)
