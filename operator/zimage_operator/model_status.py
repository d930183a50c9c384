"""ModelReady: whether the model that is asked for lies in the volume, complete; pure.

How far a download is and how it ended are the fetch's own words (docs/fetch.md); what to do next is added here.
"""

from __future__ import annotations

from typing import Any

from .judgement import CONFIG_REASONS, IMAGE_REASONS, Judgement, false, refusal, true, unknown
from .models import RETRY, JobFacts, Weights, weights
from .names import HUB_KEY
from .observed import Fetching, Observed, PodFacts, Posture, Problem
from .spec import HUB, HubSource, ZImageService

KIND = "ModelReady"
MODEL_KINDS = frozenset({"PersistentVolumeClaim", "Job"})
# The reasons of a container that was killed before its last word, by its exit code (docs/fetch.md; compared
# with the fetch's own table in tests/contract).
EXITS = {
    1: "Fault",
    2: "WrongUse",
    10: "AuthRequired",
    11: "RevisionNotFound",
    12: "RepoNotFound",
    13: "NotServable",
    14: "ChecksumMismatch",
    15: "NoSpace",
    16: "HubUnavailable",
    17: "TargetInUse",
    18: "TargetNotWritable",
    143: "Interrupted",
}


def model_ready(service: ZImageService, observed: Observed) -> Judgement | None:
    """Whether the model is complete; absent where nothing is fetched."""
    asked, state = weights(service), observed.fetching
    if asked is None:
        return None
    refused = refusal(KIND, observed, MODEL_KINDS)
    if refused:
        return refused
    if state.choice.standing == asked and state.choice.wanted is None:
        return true(KIND, "Fetched", f"{called(asked)} is complete, and every byte of it was checked")
    beside = still_serving(observed)
    job, pod = state.job, state.pods[-1] if state.pods else None
    trouble = failure(service, job, pod, state)
    if trouble:
        return false(KIND, trouble.reason, f"{trouble.message}{beside}")
    return under_way(asked, pod, state, beside)


def called(model: Weights) -> str:
    """Name a model for a person."""
    return f"{model.repo} at {model.revision[:12]}"


def still_serving(observed: Observed) -> str:
    """Say that the former model goes on, where it does."""
    former, facts = observed.fetching.choice.standing, observed.deployment
    serves = former and facts and facts.ready and facts.model == former.folder
    return f" ({former.revision[:12]} goes on serving)" if former and serves else ""


def under_way(asked: Weights, pod: PodFacts | None, state: Fetching, beside: str) -> Judgement:
    """Say how far the download is, as far as is known."""
    report = state.reports.get(pod.uid) if pod else None
    if report and report.phase == "verifying":
        text = f"{called(asked)} is there already and is checked byte by byte: {report.percent} %"
        return unknown(KIND, "Verifying", f"{text}{beside}")
    if report and report.total_bytes:
        size = f"{report.total_bytes / 1e9:.1f} GB"
        return unknown(KIND, "Downloading", f"{called(asked)}: {report.percent} % of {size}{beside}")
    return unknown(KIND, "Downloading", f"{called(asked)} is being downloaded{beside}")


def downloaded(observed: Observed) -> float | None:
    """Give how much of a model is there, from 0 to 1, while its download runs; None where none does."""
    state = observed.fetching
    if state.choice.wanted is None or state.job is None or state.job.failed:
        return None
    report = state.reports.get(state.pods[-1].uid) if state.pods else None
    return report.percent / 100 if report else 0.0


def failure(service: ZImageService, job: JobFacts | None, pod: PodFacts | None, state: Fetching) -> Problem | None:
    """Say what keeps a download from its end, what to do, and when it is tried again."""
    if job is None:
        return None
    if job.failed:
        found = ended(service, job, pod) if pod else Problem("DownloadFailed", f"the download ended ({job.reason})")
        at_once = f"kubectl -n {service.namespace} delete job {job.name}"
        text = f"{found.message}; tried again at {job.failed + RETRY:%H:%M} UTC, at once after {at_once}"
        return Problem(found.reason, text)
    if pod is None:
        return None
    if pod.phase == "Failed" and pod.exit_code is not None:
        found = ended(service, job, pod)
        return Problem(found.reason, f"{found.message}; tried again in a moment")
    return not_started(service, pod)


def not_started(service: ZImageService, pod: PodFacts) -> Problem | None:
    """Say what keeps the download's pod from starting."""
    if "unbound immediate PersistentVolumeClaims" in pod.unscheduled:
        storage = f"StorageClass {found}" if (found := storage_class(service)) else "the default StorageClass"
        text = f"no volume of {storage} is there for the model: see kubectl -n {service.namespace} describe pvc"
        return Problem("VolumePending", f"{text} {service.name}-model")
    if pod.unscheduled:
        return Problem("Unschedulable", f"no node can take the download: {pod.unscheduled}")
    if pod.waiting in IMAGE_REASONS:
        return Problem("ImagePullFailed", f"the worker's image cannot be pulled ({pod.waiting}): {pod.waiting_message}")
    if pod.waiting in CONFIG_REASONS:
        return Problem("ContainerConfigError", f"the download cannot be started: {pod.waiting_message}")
    return None


def storage_class(service: ZImageService) -> str | None:
    """Give the class that was asked for."""
    return service.model.storage.storage_class_name if service.model.storage else None


def ended(service: ZImageService, job: JobFacts, pod: PodFacts) -> Problem:
    """Say why a download's pod ended without success: its own last word, and the next step."""
    hub, report = service.model.source, pod.report
    assert isinstance(hub, HubSource), "only a hub's model is fetched"
    reason = (report.reason if report else "") or EXITS.get(pod.exit_code or 0, "DownloadFailed")
    if pod.last_exit == "OOMKilled":
        return Problem("OOMKilled", "the download used more memory than a fetch needs: report it as a fault")
    logs = f"see kubectl -n {service.namespace} logs job/{job.name}"
    said = (report.message if report else "") or f"the download ended with code {pod.exit_code}: {logs}"
    if reason == "WrongUse" and hub.token_secret_name and "HF_TOKEN_PATH" in said:
        create = f"kubectl -n {service.namespace} create secret generic {hub.token_secret_name}"
        text = f"Secret {hub.token_secret_name} does not give the hub's token: {create} --from-literal={HUB_KEY}=…"
        return Problem("SecretMissing", text)
    step = next_step(hub, reason)
    return Problem("DownloadFailed" if reason in ("Fault", "Interrupted") else reason, f"{said}{step and '; '}{step}")


def next_step(hub: HubSource, reason: str) -> str:
    """Say which field of the resource is about it."""
    token = (
        f"put a token that may read it into key `{HUB_KEY}` of Secret {hub.token_secret_name}"
        if hub.token_secret_name
        else f"name a Secret with a token in its key `{HUB_KEY}` in model.huggingFace.tokenSecretName"
    )
    return {
        "AuthRequired": token,
        "RevisionNotFound": "correct model.huggingFace.revision",
        "RepoNotFound": "correct model.huggingFace.repo or endpoint",
        "NotServable": "write another model.huggingFace.repo",
        "NoSpace": "raise model.storage.size",
        "HubUnavailable": f"see that pods of this namespace may reach {hub.endpoint or HUB}",
    }.get(reason, "")


def model_facts(observed: Observed, postures: list[Posture]) -> dict[str, Any]:
    """Give what the status says of the model that workers run: its commit, and its manifest's digest."""
    choice, facts = observed.fetching.choice, observed.deployment
    served = choice.standing if facts and choice.standing and facts.model == choice.standing.folder else None
    digest = next((item.manifest_sha256 for item in postures if item.manifest_sha256), "")
    found = {"revision": served.revision if served else "", "digest": digest}
    return {key: value for key, value in found.items() if value}
