"""Fetched models: what the download Jobs have brought, which one the workers run, what is still to come; pure.

The record that a model is complete is the Job that fetched it: its outcome is written by Kubernetes'
own controller, and its arguments can never be changed. The Deployment's annotation only chooses
among models that have such a record (docs/decisions/0231-a-job-is-the-record.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from .manifest import digest
from .spec import COMMIT, REPO, HubSource, ZImageService

Raw = Mapping[str, Any]
FOLDER = r"[0-9a-f]{24}"
# A Job that failed is put away and made anew after this: whoever mends a token or a mirror need not
# come back, and a hub that is down is not asked more than a dozen times an hour.
RETRY = timedelta(minutes=5)
# Of the fetch's own line; the status shows it to people.
LINE_LENGTH = 500


@dataclass(frozen=True)
class Weights:
    """One commit of one repository."""

    repo: str
    revision: str

    @property
    def folder(self) -> str:
        """Where it lies in the volume; not the endpoint: every mirror gives the same bytes."""
        return digest([self.repo, self.revision])


@dataclass(frozen=True)
class JobFacts:
    """A download Job."""

    name: str
    uid: str
    weights: Weights
    # Folders that it was told to leave alone.
    keep: tuple[str, ...]
    created: datetime
    complete: bool
    # When it was given up; None while it is not.
    failed: datetime | None
    # Why the Job's own controller gave it up.
    reason: str


@dataclass(frozen=True)
class ClaimFacts:
    """The volume that fetched models lie in."""

    created: datetime
    bound: bool


@dataclass(frozen=True)
class FetchReport:
    """How far a fetch is, or how it ended: its own document (docs/fetch.md)."""

    phase: str = ""
    percent: int = 0
    total_bytes: int = 0
    reason: str = ""
    message: str = ""
    manifest_sha256: str = ""


@dataclass(frozen=True)
class Choice:
    """What becomes of a service's models."""

    # What workers run; None where nothing is complete yet, or nothing is fetched at all.
    standing: Weights | None = None
    # What is still to be fetched; None where nothing is.
    wanted: Weights | None = None
    # Folders that somebody may still read: the fetch leaves them alone.
    keep: tuple[str, ...] = ()
    # Jobs that stand for something.
    records: frozenset[str] = frozenset()

    @property
    def ready(self) -> bool:
        """Whether workers can be started."""
        return self.standing is not None or self.wanted is None


def weights(service: ZImageService) -> Weights | None:
    """Give the model that a service asks for, where it has to be fetched."""
    source = service.model.source
    return Weights(source.repo, source.revision) if isinstance(source, HubSource) else None


def choose(
    service: ZImageService, jobs: Collection[JobFacts], claim: ClaimFacts | None, deployed: str, in_use: Collection[str]
) -> Choice:
    """Decide what workers run and what is to be fetched.

    `deployed`: the folder that the Deployment names; `in_use`: those that its pods name. The wanted
    model runs once it is complete; until then what ran before goes on, else the youngest that is whole.
    """
    wanted = weights(service)
    if wanted is None:
        return Choice()
    whole = records(jobs, claim)
    standing = next((job for job in whole if job.weights == wanted), None)
    if standing:
        return Choice(wanted, None, (), frozenset({standing.name}))
    former = next((job for job in whole if job.weights.folder == deployed), whole[0] if whole else None)
    folders = {deployed, *in_use, *([former.weights.folder] if former else [])}
    keep = tuple(sorted(name for name in folders - {wanted.folder} if re.fullmatch(FOLDER, name)))
    names = frozenset({former.name} if former else ())
    return Choice(former.weights if former else None, wanted, keep, names)


def records(jobs: Collection[JobFacts], claim: ClaimFacts | None) -> list[JobFacts]:
    """Give the Jobs whose model lies in the volume, the youngest first: a new volume is an empty one."""
    whole = [job for job in jobs if job.complete and claim and job.created >= claim.created]
    return sorted(whole, key=lambda job: (job.created, job.name), reverse=True)


def read_job(item: Raw) -> JobFacts | None:
    """Read a download Job; None where it is none."""
    containers = item["spec"]["template"]["spec"].get("containers") or [{}]
    found = arguments(containers[0].get("args") or ())
    repo, revision = found.get("--repo", [""])[0], found.get("--revision", [""])[0]
    if not (re.fullmatch(REPO, repo) and re.fullmatch(COMMIT, revision)):
        return None
    conditions = (item.get("status") or {}).get("conditions") or ()
    true = {one["type"]: one for one in conditions if one["status"] == "True"}
    failed = true.get("Failed")
    return JobFacts(
        name=item["metadata"]["name"],
        uid=item["metadata"]["uid"],
        weights=Weights(repo, revision),
        keep=tuple(name for name in found.get("--keep", ()) if re.fullmatch(FOLDER, name)),
        created=instant(item["metadata"].get("creationTimestamp")),
        complete="Complete" in true,
        failed=instant(failed.get("lastTransitionTime")) if failed else None,
        reason=str(failed.get("reason", "")) if failed else "",
    )


def arguments(given: Sequence[str]) -> dict[str, list[str]]:
    """Read a command line of options with one value each."""
    found: dict[str, list[str]] = {}
    for name, value in pairwise(given):
        if name.startswith("--") and not value.startswith("--"):
            found.setdefault(name, []).append(value)
    return found


def instant(text: str | None) -> datetime:
    """Read a time of the API server; one that is not there is long past."""
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)


def read_claim(item: Raw) -> ClaimFacts:
    """Read a PersistentVolumeClaim."""
    return ClaimFacts(
        created=instant(item["metadata"].get("creationTimestamp")),
        bound=(item.get("status") or {}).get("phase") == "Bound",
    )


def read_report(text: str) -> FetchReport | None:
    """Read a fetch's document; None where it is none. It comes from a pod: nothing of it is taken unread."""
    try:
        document = json.loads(text.splitlines()[0])
        done, total = int(document.get("bytesDone") or 0), int(document.get("bytesTotal") or 0)
        return FetchReport(
            phase=word(document.get("phase")),
            percent=min(99, max(0, 100 * done // total)) if total > 0 else 0,
            total_bytes=total,
            reason=word(document.get("reason")),
            message=line(document.get("message")),
            manifest_sha256=word(document.get("manifestSha256")),
        )
    except (ValueError, IndexError, TypeError, AttributeError, OverflowError):
        return None


def word(value: object) -> str:
    """Give a value where it is one word of ASCII, else nothing."""
    text = value if isinstance(value, str) else ""
    return text if re.fullmatch(r"[A-Za-z0-9]{1,64}", text) else ""


def line(value: object) -> str:
    """Give a text as one printable line."""
    text = value if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:LINE_LENGTH]
