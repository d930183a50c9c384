"""Events on the resource: what `kubectl describe` shows a person. One per transition, not per repair."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from .api import Api, Denied
from .cluster import Repair
from .errors import OperatorError
from .exposure import Hole
from .logs import named
from .names import API_VERSION, GENERATED_USER, GROUP, HTPASSWD, KIND, LOGIN
from .spec import ZImageService
from .transitions import changes, openings

log = logging.getLogger(__name__)

# The API server's limit for a note is 1 KiB.
NOTE_LENGTH = 1000
# More would push the name of who did it out of the note.
NAMED_FIELDS = 8
# Two that fight over a field would otherwise fill the event log.
QUIET_SECONDS = 600.0
# One that opens and closes the same hole all the time; who does it once a minute is told each time.
FLAPPING_SECONDS = 60.0
# Between two looks through all that was told.
TIDY_SECONDS = 60.0
CLOSE_SECONDS = 1.0


class Recorder:
    """Writes events in the background; an event that cannot be written is only logged."""

    def __init__(self, api: Api, instance: str) -> None:
        self.api, self.instance = api, instance
        # Until when each is not told again, and when those that may be were last thrown away.
        self.told: dict[object, float] = {}
        self.tidied = 0.0
        self.tasks: set[asyncio.Task[None]] = set()

    def repaired(self, service: ZImageService, repair: Repair) -> None:
        """Tell who changed what, once per edit and not once per repair."""
        note = describe(repair)
        log.warning("%s", note, extra=named((service.namespace, service.name)))
        if self.fresh((service.uid, repair)):
            head = {"namespace": service.namespace, "name": service.name, "uid": service.uid}
            self.emit(head, "Warning", "Restored" if repair.deleted else "DriftRepaired", "Apply", note)

    def issued(self, service: ZImageService) -> None:
        """Tell that credentials were made up, and how to see them: never what they are."""
        head = {"namespace": service.namespace, "name": service.name, "uid": service.uid}
        self.emit(head, "Normal", "CredentialsIssued", "Issue", password_note(service))

    def transitions(self, body: Mapping[str, Any], status: Mapping[str, Any], holes: Sequence[Hole]) -> None:
        """Tell what a status that was just written says anew; `body` still has the one before."""
        head, before = body["metadata"], body.get("status") or {}
        for told in [*changes(status, before), *openings(status, before, holes)]:
            if self.fresh((head["uid"], told), FLAPPING_SECONDS):
                self.emit(head, told.level, told.reason, told.action, told.note)

    def fresh(self, what: object, quiet_seconds: float = QUIET_SECONDS) -> bool:
        """Whether this was not told a short while ago."""
        now = asyncio.get_running_loop().time()
        if now > self.tidied + TIDY_SECONDS:
            self.tidied, self.told = now, {key: until for key, until in self.told.items() if until > now}
        if self.told.get(what, now) > now:
            return False
        self.told[what] = now + quiet_seconds
        return True

    def emit(self, head: Mapping[str, Any], level: str, reason: str, action: str, note: str) -> None:
        """Send one event without waiting for it."""
        task = asyncio.create_task(self.send(event(head, level, reason, action, note, self.instance)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def send(self, document: dict[str, Any]) -> None:
        """Write one event."""
        path = f"/apis/events.k8s.io/v1/namespaces/{document['metadata']['namespace']}/events"
        try:
            await self.api.request("POST", path, kind="Event", body=document)
        except (Denied, OperatorError) as error:
            log.info("an event was not written: %s", error)

    async def close(self) -> None:
        """Wait for what is on its way, for a moment."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=CLOSE_SECONDS)


def describe(repair: Repair) -> str:
    """Say in one sentence what was put right and who had changed it."""
    target = f"{repair.target.kind} {repair.target.name}"
    if repair.deleted:
        return f"{target} was deleted by somebody else and has been created again"
    who = " and ".join(repair.managers) or "an unknown field manager"
    more = len(repair.fields) - NAMED_FIELDS
    what = ", ".join(repair.fields[:NAMED_FIELDS]) + (f" and {more} more" if more > 0 else "")
    return f"{target}: {what} was changed by {who} and has been put back"


def password_note(service: ZImageService) -> str:
    """Say how to see the generated password and how to get another one."""
    secret = f"{service.name}-{LOGIN}"
    show = f"kubectl -n {service.namespace} get secret {secret} -o jsonpath='{{.data.password}}' | base64 -d"
    again = f"kubectl -n {service.namespace} delete secret {service.name}-{HTPASSWD} {secret}"
    return (
        f"New credentials for user {GENERATED_USER}; older ones no longer work. Password: {show}; another one: {again}"
    )


def event(head: Mapping[str, Any], level: str, reason: str, action: str, note: str, instance: str) -> dict[str, Any]:
    """Build an events.k8s.io/v1 Event about a resource."""
    regarding = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        **{key: head[key] for key in ("namespace", "name", "uid")},
    }
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": head["namespace"], "name": f"{head['name']}.{uuid.uuid4().hex[:16]}"},
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": level,
        "reason": reason,
        "action": action,
        "note": note[:NOTE_LENGTH],
        "regarding": regarding,
        "reportingController": f"{GROUP}/operator",
        "reportingInstance": instance,
    }
