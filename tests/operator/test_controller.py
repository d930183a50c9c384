"""What the loop around the straight line must not do: tell twice, or write before it has looked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support import smallest
from zimage_operator import controller as module
from zimage_operator.api import Api
from zimage_operator.controller import WORKERS, Controller
from zimage_operator.errors import ClusterUnavailable, Conflict, InvalidSpec, NamespaceTerminating, NotOwned
from zimage_operator.manifest import Key, Ref
from zimage_operator.names import labels
from zimage_operator.observed import Observed, ReceiptFacts, Report
from zimage_operator.reconcile import Outcome
from zimage_operator.settings import read
from zimage_operator.spec import parse
from zimage_operator.status import stalled

KEY = ("team-a", "studio")
READY = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "serving"}]}
BEFORE = {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "False", "reason": "CrashLoop"}]}


class Recording(Controller):
    """A controller that keeps what it would have written."""

    def __init__(self, patch: pytest.MonkeyPatch, probing: bool = False) -> None:
        super().__init__(Api(None), read({"ZIMAGE_OPERATOR_PROBE_INTERVAL_SECONDS": "300" if probing else "0"}), "test")
        self.written: list[Any] = []
        self.told: list[str] = []
        self.refusals = self.reconciled = 0
        self.outcome = Outcome(READY)
        patch.setattr(module, "reconcile", self.pretend)
        patch.setattr(self.cluster, "apply_status", self.write)
        patch.setattr(self.recorder, "emit", lambda _, __, reason, *rest: self.told.append(reason))
        head = {"uid": "u", "resourceVersion": "1", "generation": 1}
        body = smallest(*reversed(KEY))
        self.body = body | {"metadata": body["metadata"] | head, "status": BEFORE}
        self.cache.observe("ZImageService", self.body)

    async def pretend(self, *_: Any) -> Outcome:
        self.reconciled += 1
        return self.outcome

    async def write(self, body: Any, status: Any) -> bool:
        if self.refusals:
            self.refusals -= 1
            raise Conflict("somebody else was faster")
        self.written.append(status)
        return True


async def test_a_transition_is_told_once_however_often_its_write_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Recording(monkeypatch)
    controller.refusals = 2
    for _ in range(2):
        with pytest.raises(Conflict):
            await controller.one(KEY)
    assert controller.told == []
    await controller.one(KEY)
    assert controller.told == ["Ready"]
    module.forget(KEY)


async def test_a_new_process_looks_before_it_writes_over_what_another_one_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Recording(monkeypatch, probing=True)
    pod = {
        "metadata": {
            "namespace": KEY[0],
            "name": "p",
            "uid": "p",
            "resourceVersion": "2",
            "labels": labels(KEY[1]) | {"pod-template-hash": "h"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "studio-h", "uid": "r", "controller": True}],
        },
        "spec": {},
        "status": {"podIP": "127.0.0.1"},
    }
    controller.cache.observe("Pod", pod)
    await controller.one(KEY)
    assert controller.written == []
    controller.verifier.pods.reports["p"] = Report()
    await controller.one(KEY)
    assert controller.written == [READY]
    # From then on it knows more than the last one did, also while it looks at a new pod.
    controller.verifier.pods.reports.clear()
    await controller.one(KEY)
    assert len(controller.written) == 2
    await controller.verifier.close()
    module.forget(KEY)


@pytest.mark.parametrize(("age", "looks"), [(60, True), (181, False)], ids=["on its way", "long there"])
async def test_new_credentials_are_looked_at_once_more_when_the_kubelets_time_is_over(
    monkeypatch: pytest.MonkeyPatch, age: int, looks: bool
) -> None:
    """No event comes then: a worker that holds a stranger's file would be called on its way until the next one."""
    controller = Recording(monkeypatch)
    made = ReceiptFacts("issue", "a" * 64, datetime.now(UTC) - timedelta(seconds=age))
    service = parse(smallest(*reversed(KEY), auth={"basic": {"generate": True}}))
    controller.outcome = Outcome(READY, service, observed=Observed(receipt=made))
    await controller.one(KEY)
    assert (KEY in controller.queue.timers) is looks
    if looks:
        timer = controller.queue.timers[KEY]
        assert 0 < timer.when() - asyncio.get_running_loop().time() <= 180 - age
        timer.cancel()
    module.forget(KEY)


async def test_a_child_whose_label_was_edited_is_not_forgotten_with_a_service_that_never_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its repair would be told to nobody: what had been applied is what tells an edit from a new wish."""
    controller = Recording(monkeypatch)
    owner = {"apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageService", "name": "studio", "uid": "u"}
    head = {"name": "studio", "namespace": "team-a", "uid": "p", "ownerReferences": [{**owner, "controller": True}]}
    policy = Ref("NetworkPolicy", "team-a", "studio")
    for version, instance in enumerate(("studio", "mallory"), start=1):
        found = {**head, "resourceVersion": str(version), "labels": labels(instance)}
        keys = controller.cache.observe("NetworkPolicy", {"metadata": found, "spec": {}})
        controller.cache.applied[policy] = "digest"
        assert KEY in keys
        for key in {*keys, ("team-a", "mallory")} - {KEY}:
            await controller.one(key)
    assert controller.cache.applied[policy] == "digest"


async def test_a_change_that_comes_before_the_status_is_written_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the write has it already: told by the stream afterwards it is old."""
    controller = Controller(Api(None), read({"ZIMAGE_OPERATOR_PROBE_INTERVAL_SECONDS": "0"}), "test")
    body = smallest(*reversed(KEY))

    def version(number: int, generation: int, **more: Any) -> dict[str, Any]:
        head = {"uid": "u", "resourceVersion": str(number), "generation": generation}
        return body | {"metadata": body["metadata"] | head} | more

    async def answered(*_: Any, **__: Any) -> Any:
        # The spec was changed at 2, this write is 3.
        return version(3, 2, status=READY)

    monkeypatch.setattr(controller.api, "request", answered)
    controller.cache.observe("ZImageService", version(1, 1))
    assert await controller.cluster.apply_status(controller.cache.services[KEY], READY)
    assert controller.cache.observe("ZImageService", version(2, 2)) == []
    async with asyncio.timeout(5):
        assert await controller.queue.get() == KEY
    # An echo of nothing but our own write is none.
    controller.queue.done(KEY)

    async def echoed(*_: Any, **__: Any) -> Any:
        return version(4, 2, status=BEFORE)

    monkeypatch.setattr(controller.api, "request", echoed)
    assert await controller.cluster.apply_status(controller.cache.services[KEY], BEFORE)
    assert not controller.queue.timers
    assert not len(controller.queue)


# --- what is done again, and what is not ------------------------------------------------------


async def test_who_is_on_the_way_out_gets_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a finalizer of somebody else's it may take long (the real API server: test_operator.py)."""
    controller = Recording(monkeypatch)
    head = {**controller.body["metadata"], "resourceVersion": "2", "deletionTimestamp": "2026-11-26T00:00:00Z"}
    controller.cache.observe("ZImageService", {**controller.body, "metadata": head})
    await controller.one(KEY)
    assert (controller.reconciled, controller.written) == (0, [])


async def test_what_only_its_author_can_mend_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Recording(monkeypatch)
    controller.outcome = Outcome(stalled(controller.body, InvalidSpec("write another"), {}, datetime.now(UTC)))
    await controller.one(KEY)
    assert len(controller.written) == 1
    assert (controller.queue.timers, len(controller.queue)) == ({}, 0)
    module.forget(KEY)


async def test_what_no_watch_tells_the_end_of_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Recording(monkeypatch)
    controller.outcome = Outcome(READY, refused=(NotOwned("Secret", "studio-basic-auth", "taken"),))
    await controller.one(KEY)
    assert 0 < controller.queue.timers.pop(KEY).when() - asyncio.get_running_loop().time() <= 60
    module.forget(KEY)


class Failing(Controller):
    """A controller for which one resource ends in an error, the first time."""

    def __init__(self, error: Exception) -> None:
        super().__init__(Api(None), read({"KUBECONFIG": "x"}), "test")
        self.error, self.begun = error, list[Key]()

    async def one(self, key: Key) -> None:
        # A real one asks the API server.
        await asyncio.sleep(0)
        self.begun.append(key)
        if self.begun == [KEY]:
            raise self.error


@pytest.mark.parametrize(
    ("error", "waits", "again"),
    [
        (Conflict("somebody was faster"), False, True),
        (NamespaceTerminating("team-a"), False, False),
        (ClusterUnavailable("503"), True, False),
        (NotOwned("Service", "studio", "taken"), True, False),
        (RuntimeError("a fault of ours"), True, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_an_error_of_one_resource_stops_no_other_and_its_type_says_when_it_is_tried_again(
    error: Exception, waits: bool, again: bool
) -> None:
    controller, others = Failing(error), [(f"team-{number}", "studio") for number in range(3)]
    controller.queue.add(KEY)
    worker = asyncio.create_task(controller.work())
    for other in others:
        controller.queue.add(other)
        async with asyncio.timeout(60):
            while other not in controller.begun:
                await asyncio.sleep(0.01)
    assert not worker.done()
    assert controller.begun.count(KEY) == (2 if again else 1)
    assert (KEY in controller.queue.timers) is waits
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    if waits:
        controller.queue.timers.pop(KEY).cancel()


class Counting(Controller):
    """A controller that is given nothing to wait for, and whose reconciles do not end."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(Api(None), read({"KUBECONFIG": "x", "ZIMAGE_OPERATOR_LEADER_ELECTION": "false"}), "test")
        self.begun: list[Key] = []
        self.swept = asyncio.Event()
        for part, name in ((self.streams, "sync"), (self, "recall")):
            patch.setattr(part, name, self.nothing)
        patch.setattr(self.streams, "resync", self.sweep)

    async def nothing(self) -> None:
        """There is no API server."""

    async def sweep(self) -> None:
        self.swept.set()
        await asyncio.Event().wait()

    async def one(self, key: Key) -> None:
        self.begun.append(key)
        await asyncio.Event().wait()


async def test_sixteen_reconciles_run_at_a_time_and_the_sweep_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Counting(monkeypatch)
    for number in range(2 * WORKERS):
        controller.queue.add(("team-a", f"s-{number}"))
    running = asyncio.create_task(controller.run())
    async with asyncio.timeout(60):
        await controller.swept.wait()
        while len(controller.begun) < WORKERS:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert len(controller.begun) == WORKERS == 16
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_every_policy_about_the_pods_asks_for_new_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, and one of somebody else's that selects them; not one of another service's."""
    controller, asked = Recording(monkeypatch, probing=True), list[str]()
    monkeypatch.setattr(controller.verifier, "follow", lambda _, policies, *__: asked.append(policies))

    def policy(name: str, version: int, instance: str = "", **head: Any) -> dict[str, Any]:
        selector = {"matchLabels": {"app.kubernetes.io/instance": instance}} if instance else {}
        about = {"name": name, "namespace": "team-a", "uid": name, "resourceVersion": str(version), **head}
        return {"metadata": about, "spec": {"podSelector": selector, "ingress": [{}]}}

    owner = {"apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageService", "name": "studio", "uid": "u"}
    ours = {"labels": labels("studio"), "ownerReferences": [{**owner, "controller": True}]}
    changes: list[tuple[dict[str, Any], bool]] = [
        (policy("studio", 1, **ours), True),
        (policy("studio", 2, **ours), True),
        (policy("wide", 3), True),
        (policy("wide", 4), True),
        (policy("atelier", 5, "atelier"), False),
    ]
    await controller.one(KEY)
    for item, news in changes:
        controller.cache.observe("NetworkPolicy", item)
        await controller.one(KEY)
        assert (asked[-1] != asked[-2]) is news, item["metadata"]
    controller.cache.observe("NetworkPolicy", policy("wide", 6), deleted=True)
    await controller.one(KEY)
    assert asked[-1] != asked[-2]
    module.forget(KEY)
