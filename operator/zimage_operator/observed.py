"""What was read back, as frozen facts, and the pure reading of raw objects into them.

Nothing in here trusts what a resource's author can write: an object counts as ours by its
controller's uid only, never by its name, labels or annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .entrances import Entrance, Verdict, read_verdict
from .errors import Refused
from .exposure import Exposure
from .manifest import Manifest, Ref
from .models import Choice, ClaimFacts, FetchReport, JobFacts, read_claim, read_job, read_report
from .names import KIND, LABEL_INSTANCE, MANAGER, MODEL_ANNOTATION, REVISION_ANNOTATION, labels
from .quantities import quantity

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of somebody else's object, such as a Deployment's `Available`."""

    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class DeploymentFacts:
    """How far the workload is."""

    generation: int
    observed_generation: int
    replicas: int
    updated: int
    ready: int
    available: int
    revision: str
    conditions: Mapping[str, Condition]
    # What its spec asks for: an autoscaler's word, where there is one.
    wanted: int = 1
    # The folder of the fetched model that its template names; empty where there is none.
    model: str = ""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod of ours. `waiting` is the container's reason, `last_exit` how it ended before."""

    namespace: str
    name: str
    uid: str
    instance: str
    revision: str
    ip: str
    phase: str
    ready: bool
    deleting: bool
    unscheduled: str
    waiting: str
    waiting_message: str
    last_exit: str
    exit_code: int | None
    # What others have put beside our labels: a selector may ask for these too.
    extra_labels: tuple[tuple[str, str], ...] = ()
    # The folder of the fetched model that it serves.
    model: str = ""
    # The Job whose pod it is, by uid; empty for a worker. Then, what it left behind as its last word.
    job: str = ""
    created: str = ""
    report: FetchReport | None = None


@dataclass(frozen=True)
class ReceiptFacts:
    """What lasts as long as the generated credentials: the uid of their issue, and the htpasswd file's digest."""

    issue: str
    sha256: str
    created: datetime


@dataclass(frozen=True)
class Problem:
    """Something that the worker could not load: the reason, and what to do."""

    reason: str
    message: str


@dataclass(frozen=True)
class Posture:
    """What a worker says that it loaded (`GET :9090/posture`); never a secret."""

    auth_mode: str
    users: int
    auth_problems: tuple[Problem, ...]
    certificate_wanted: bool
    certificate_problems: tuple[Problem, ...]
    not_after: datetime | None
    dns_names: tuple[str, ...]
    matches_host: bool
    model_problems: tuple[Problem, ...]
    phase: str
    key_ids: tuple[str, ...] = ()
    # Digest of the htpasswd file; empty where there is none.
    basic_sha256: str = ""
    # Digest of the model's manifest; empty where the model was not fetched.
    manifest_sha256: str = ""


@dataclass(frozen=True)
class Report:
    """What the probes of one pod found.

    `isolation`: `blocked` (the metrics port answered and 7860 did not), `open` (7860 answered),
    `unreachable` (not even the metrics port answered: it says nothing), or `untested`.
    """

    isolation: str = "untested"
    posture: Posture | None = None
    problem: str = ""
    # When it was found. Two looks that found the same are equal.
    at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True)
class EdgeReport:
    """What a request without credentials to the published URL met.

    `result`: `refused`, `open` (it was let in), or `unclear` (another answer, or none); `detail`
    is the status or the name of the error.
    """

    result: str
    detail: str


@dataclass(frozen=True)
class Fetching:
    """What is known of a service's models."""

    choice: Choice = field(default_factory=Choice)
    # The Job that fetches, or has fetched, the model that is asked for; its pods, the youngest last.
    job: JobFacts | None = None
    pods: tuple[PodFacts, ...] = ()
    claim: ClaimFacts | None = None
    # What the operator was answered by a pod while it ran, by its uid.
    reports: Mapping[str, FetchReport] = field(default_factory=dict)
    # Pods of any download that have not ended.
    running: int = 0


@dataclass(frozen=True)
class Observed:
    """Everything that a status is made of."""

    existing: frozenset[Ref] = frozenset()
    deployment: DeploymentFacts | None = None
    pods: tuple[PodFacts, ...] = ()
    reports: Mapping[str, Report] = field(default_factory=dict)
    entrance: Entrance = field(default_factory=Entrance)
    # What controllers of others say of our objects.
    verdicts: Mapping[Ref, Verdict] = field(default_factory=dict)
    receipt: ReceiptFacts | None = None
    refused: tuple[Refused, ...] = ()
    # False where the operator runs outside the cluster, or was told not to probe.
    probing: bool = False
    # The namespaces that are let in now; None where labels decide and the operator may not look.
    clients: tuple[str, ...] | None = None
    # The operator's own namespace is admitted, so it cannot see what strangers see.
    blind: bool = False
    # None where the edge is not asked.
    edge: EdgeReport | None = None
    exposure: Exposure = field(default_factory=Exposure)
    # The template in force is that of a former operator.
    outdated: bool = False
    fetching: Fetching = field(default_factory=Fetching)


Facts = DeploymentFacts | PodFacts | ReceiptFacts | JobFacts | ClaimFacts | Verdict


def owner_uid(item: Raw) -> str:
    """Give the uid of the ZImageService that controls an object; empty if none does."""
    owners = item["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller") and owner["kind"] == KIND), "")


def read(kind: str, item: Raw) -> Facts | None:
    """Read the facts of an object of a kind that has any."""
    reader = READERS.get(kind)
    return reader(item) if reader else None


def read_deployment(item: Raw) -> DeploymentFacts:
    """Read how far a rollout is."""
    status = item.get("status") or {}
    template = item["spec"]["template"]["metadata"]
    return DeploymentFacts(
        generation=item["metadata"].get("generation", 0),
        observed_generation=status.get("observedGeneration", 0),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        ready=status.get("readyReplicas", 0),
        available=status.get("availableReplicas", 0),
        revision=(template.get("annotations") or {}).get(REVISION_ANNOTATION, ""),
        conditions=read_conditions(status),
        wanted=item["spec"].get("replicas", 1),
        model=(template.get("annotations") or {}).get(MODEL_ANNOTATION, ""),
    )


def read_conditions(status: Raw) -> dict[str, Condition]:
    """Read a list of conditions, by type."""
    return {
        item["type"]: Condition(item["status"], item.get("reason", ""), item.get("message", ""))
        for item in status.get("conditions") or ()
    }


def read_pod(item: Raw) -> PodFacts:
    """Read one pod of ours."""
    head, status = item["metadata"], item.get("status") or {}
    conditions = read_conditions(status)
    container: Raw = next(iter(status.get("containerStatuses") or ()), {})
    waiting = (container.get("state") or {}).get("waiting") or {}
    ended = (
        (container.get("lastState") or {}).get("terminated") or (container.get("state") or {}).get("terminated") or {}
    )
    scheduled, ready = conditions.get("PodScheduled"), conditions.get("Ready")
    return PodFacts(
        namespace=head["namespace"],
        name=head["name"],
        uid=head["uid"],
        instance=(head.get("labels") or {}).get(LABEL_INSTANCE, ""),
        revision=(head.get("annotations") or {}).get(REVISION_ANNOTATION, ""),
        ip=status.get("podIP", ""),
        phase=status.get("phase", "Pending"),
        ready=bool(ready and ready.status == "True"),
        deleting=bool(head.get("deletionTimestamp")),
        unscheduled=scheduled.message if scheduled and scheduled.status == "False" else "",
        waiting=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        last_exit=ended.get("reason", ""),
        exit_code=ended.get("exitCode"),
        extra_labels=extra_labels(head.get("labels") or {}),
        model=(head.get("annotations") or {}).get(MODEL_ANNOTATION, ""),
        job=next((owner["uid"] for owner in head.get("ownerReferences") or () if owner.get("kind") == "Job"), ""),
        created=head.get("creationTimestamp", ""),
        report=read_report(str(ended.get("message") or "")),
    )


def extra_labels(found: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Give the labels that are not those of every worker of the same service."""
    ours = labels(found.get(LABEL_INSTANCE, ""))
    return tuple(sorted((key, value) for key, value in found.items() if ours.get(key) != value))


def read_receipt(item: Raw) -> ReceiptFacts | None:
    """Read the receipt of generated credentials; other ConfigMaps say nothing.

    Only one that belongs to a Secret: without that owner it would outlive what it stands for.
    """
    head, data = item["metadata"], item.get("data") or {}
    owners = [owner["kind"] for owner in head.get("ownerReferences") or ()]
    if "issue" not in data or owners != ["Secret"]:
        return None
    created = datetime.fromisoformat(head["creationTimestamp"])
    return ReceiptFacts(str(data["issue"]), str(data.get("sha256", "")), created)


READERS: dict[str, Callable[[Raw], Facts | None]] = {
    "ConfigMap": read_receipt,
    "PersistentVolumeClaim": read_claim,
    "Job": read_job,
    "Deployment": read_deployment,
    "Pod": read_pod,
    **dict.fromkeys(("HTTPRoute", "SecurityPolicy", "BackendTrafficPolicy", "Policy", "Certificate"), read_verdict),
}


def read_posture(document: Any) -> Posture:
    """Read a worker's answer.

    Raises:
        ValueError: it is not a posture (an old worker, or something else on the port).
    """
    try:
        auth, certificate = document["auth"], document["certificate"] or {}
        return Posture(
            auth_mode=str(auth["mode"]),
            users=int(auth["users"]),
            key_ids=tuple(str(item) for item in auth.get("keyIds") or ()),
            basic_sha256=str((auth.get("filesSha256") or {}).get("basic", "")),
            auth_problems=problems(auth),
            certificate_wanted=document["certificate"] is not None,
            certificate_problems=problems(certificate),
            not_after=instant(certificate.get("notAfter")),
            dns_names=tuple(map(str, certificate.get("dnsNames") or ())),
            matches_host=bool(certificate.get("matchesHost")),
            model_problems=problems(document.get("model") or {}),
            phase=str(document.get("phase", "")),
            manifest_sha256=str((document.get("model") or {}).get("manifestSha256") or "")[:64],
        )
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"not a posture: {error!r}") from error


# Longer texts could only be somebody else's; the status shows them to people.
PROBLEM_LENGTH = 500


def problems(part: Raw) -> tuple[Problem, ...]:
    """Read the problems of one part of a posture."""
    found = part.get("problems") or ()
    return tuple(Problem(str(item["reason"])[:64], str(item["message"])[:PROBLEM_LENGTH]) for item in found)


def instant(text: str | None) -> datetime | None:
    """Read an RFC 3339 time in UTC."""
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True)
class Drift:
    """A field that somebody else changed, and the field manager that did it ("" if it left no trace)."""

    path: tuple[str, ...]
    manager: str


def drift(wanted: Manifest, live: Raw) -> list[Drift]:
    """Find every field of `wanted` that `live` does not have as wanted.

    Fields that only `live` has belong to others. Defaults of the API server are such fields.
    """
    managed = live["metadata"].get("managedFields") or ()
    return [Drift(path, culprit(path, managed)) for path in differences(wanted, live)]


def differences(wanted: Any, live: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Walk both values; yield the path of each difference.

    Lists of named items are compared by name, as server-side apply merges them; other lists as a whole.
    """
    if isinstance(wanted, dict) and isinstance(live, Mapping):
        for key, value in wanted.items():
            yield from differences(value, live.get(key), (*path, key))
    elif isinstance(wanted, list) and wanted and isinstance(live, list) and is_named(wanted):
        by_name = {item.get("name"): item for item in live if isinstance(item, Mapping)}
        for item in wanted:
            yield from differences(item, by_name.get(item["name"]), (*path, item["name"]))
    elif isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        for index, (item, other) in enumerate(zip(wanted, live, strict=True)):
            yield from differences(item, other, (*path, str(index)))
    elif not same(wanted, live, path):
        yield path


def at(live: Any, path: tuple[str, ...]) -> Any:
    """Give what stands at a path of `differences`; None where nothing does."""
    for part in path:
        if isinstance(live, list):
            found = [item for item in live if isinstance(item, Mapping) and item.get("name") == part]
            live = found[0] if found else live[int(part)] if part.isdecimal() and int(part) < len(live) else None
        else:
            live = live.get(part) if isinstance(live, Mapping) else None
    return live


def is_named(items: list[Any]) -> bool:
    """Whether every item has a name that it can be found by."""
    return all(isinstance(item, dict) and "name" in item for item in items)


def same(wanted: Any, live: Any, path: tuple[str, ...]) -> bool:
    """Compare two leaves: the API server drops what is empty and rewrites quantities."""
    if wanted == live or (wanted in ("", [], {}, False) and live is None):
        return True
    if (
        not {"resources", "sizeLimit", "averageValue"} & set(path)
        or not isinstance(wanted, str)
        or not isinstance(live, str)
    ):
        return False
    return quantity(wanted) == quantity(live)


def culprit(path: tuple[str, ...], managed: Any) -> str:
    """Name the field manager, other than us, that owns the changed field or the nearest one above it.

    managedFields keeps the trace: who changes a field of ours by an update becomes its owner.
    """
    others = [entry for entry in managed if entry.get("manager") != MANAGER and not entry.get("subresource")]
    ranked = sorted(others, key=lambda entry: (depth(path, entry.get("fieldsV1") or {}), entry.get("time", "")))
    best = ranked[-1] if ranked else None
    return str(best["manager"]) if best and depth(path, best.get("fieldsV1") or {}) > 1 else ""


def depth(path: tuple[str, ...], fields: Raw) -> int:
    """Say how many steps of `path` an entry of managedFields follows."""
    here: Any = fields
    for steps, part in enumerate(path):
        found = next((key for key in here if key in (f"f:{part}", f'k:{{"name":"{part}"}}')), None)
        if found is None:
            return steps
        here = here[found]
    return len(path)


def held_replicas(live: Raw) -> int | None:
    """Give the count of a live Deployment where we are a manager of it; None where we are not."""
    ours = (entry for entry in live["metadata"].get("managedFields") or () if entry.get("manager") == MANAGER)
    held = any("f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {}) for entry in ours)
    return int(live["spec"].get("replicas", 1)) if held else None


def reclaimed(live: Raw) -> list[Manifest] | None:
    """Give an object's managedFields with us as manager of what others hold outside of its metadata.

    None where nobody else does, or we do not. Statuses are left out, and replicas: whoever was
    given those keeps them.
    """
    managed = live["metadata"].get("managedFields") or ()
    ours = next((one for one in managed if one.get("manager") == MANAGER and one.get("operation") == "Apply"), None)
    others = [one for one in managed if one is not ours and not one.get("subresource")]
    taken = [{key: value for key, value in one["fieldsV1"].items() if key != "f:metadata"} for one in others]
    if ours is None or not any(taken):
        return None
    fields = ours["fieldsV1"]
    for more in taken:
        fields = united(fields, {**more, "f:spec": without_replicas(more.get("f:spec", {}))})
    left = [{**one, "fieldsV1": {"f:metadata": one["fieldsV1"].get("f:metadata", {})}} for one in others]
    rest = [one for one in managed if one is not ours and one.get("subresource")]
    return [{**ours, "fieldsV1": fields}, *left, *rest]


def without_replicas(fields: Raw) -> Manifest:
    return {key: value for key, value in fields.items() if key != "f:replicas"}


def united(one: Raw, other: Raw) -> Manifest:
    """Give the union of two sets of fields (fieldsV1)."""
    both = {key: united(one[key], other[key]) for key in one.keys() & other.keys()}
    return {**one, **other, **both}
