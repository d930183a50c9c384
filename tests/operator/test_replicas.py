"""Two replicas: one acts, the other is warm; never both. `make bench-operator` times the takeover."""

from __future__ import annotations

import asyncio
import itertools
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from laws import exists
from support import Operator, claim, eventually, smallest
from zimage_operator import leader as module
from zimage_operator.leader import HOLD_SECONDS, Leader, LostLease


class Silent:
    """An API server that takes requests and does not answer; before that it gives the Lease to whoever asks."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] = {"metadata": {"name": "zimage-operator"}, "spec": {}}
        self.answers = True

    async def request(self, verb: str, _: str, *, kind: str, body: Any = None) -> Any:
        if not self.answers:
            await asyncio.Event().wait()
        if verb == "PUT":
            self.lease = body
        return json.loads(json.dumps(self.lease))


async def test_a_lease_that_cannot_be_renewed_ends_the_process_before_another_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(module, "RENEW_WITHIN_SECONDS", 0.3)
    api = Silent()
    leader = Leader(api, "zimage-system", "one")  # type: ignore[arg-type]
    await leader.acquire()
    leader.check()
    renewed = leader.until
    holding = asyncio.create_task(leader.hold())
    while leader.until == renewed:
        await asyncio.sleep(0.01)
    api.answers = False
    with pytest.raises(LostLease, match="could not renew"):
        await asyncio.wait_for(holding, 60)
    assert leader.until is not None
    # A process that slept through all of it finds out before it writes.
    leader.until -= HOLD_SECONDS + 60
    with pytest.raises(LostLease, match="nothing is written"):
        leader.check()


async def test_who_sees_another_name_in_its_lease_ends_at_once() -> None:
    api = Silent()
    leader = Leader(api, "zimage-system", "one")  # type: ignore[arg-type]
    await leader.acquire()
    api.lease["spec"]["holderIdentity"] = "two"
    with pytest.raises(LostLease, match="taken by two"):
        await leader.attempt()
    with pytest.raises(LostLease):
        leader.check()


async def test_what_is_given_back_is_free_at_once_and_what_is_anothers_is_left() -> None:
    api = Silent()
    leader = Leader(api, "zimage-system", "one")  # type: ignore[arg-type]
    await leader.acquire()
    assert api.lease["spec"]["holderIdentity"] == "one"
    await leader.release()
    assert api.lease["spec"]["holderIdentity"] == ""
    with pytest.raises(LostLease):
        leader.check()
    other = Leader(api, "zimage-system", "two")  # type: ignore[arg-type]
    assert await other.attempt()
    await leader.release()
    assert api.lease["spec"]["holderIdentity"] == "two"


def test_the_numbers_of_the_election_are_client_go_s() -> None:
    """Hold for 15 s, give up after 10 s, renew every 2 s; who gives up has gone before another may come."""
    assert (HOLD_SECONDS, module.RENEW_WITHIN_SECONDS, module.PERIOD_SECONDS) == (15, 10, 2)


async def test_who_has_no_lease_writes_nothing() -> None:
    with pytest.raises(LostLease):
        Leader(Silent(), "zimage-system", "one").check()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def replicas(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Operator]]:
    """Two in place of the one of all other tests; the first of them leads."""
    operator.stop_in_order()
    pair = [Operator(operator.cluster, tmp_path_factory.mktemp(name)) for name in ("one", "two")]
    pair[0].start_and_lead()
    start_standby(pair[1])
    yield pair
    for one in pair:
        if one.process and one.process.poll() is None:
            assert one.stop() == 0
    for one in pair:
        assert "Traceback" not in one.log.read_text()
    operator.start_and_lead()


def start_standby(replica: Operator) -> None:
    replica.start()
    eventually(lambda: in_sync(replica), "the standby's cache is warm")


def in_sync(replica: Operator) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{replica.port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def agents(operator: Operator, since: int) -> list[str]:
    """Which process made each write, in the order of the API server's audit log."""
    return [entry["userAgent"] for entry in operator.writes()[since:]]


def create(cluster: ControlPlane, namespace: str, names: list[str]) -> None:
    cluster.apply(*(smallest(name, namespace, replicas=0, ingress=None) for name in names))


def holder(cluster: ControlPlane) -> str:
    lease = cluster.get("lease", "zimage-operator", "-n", "zimage-system")
    return str(lease["spec"].get("holderIdentity", ""))


@pytest.mark.control_plane
def test_of_two_replicas_one_writes_and_the_other_takes_over(replicas: list[Operator], namespace: str) -> None:
    """Killed in the midst of its work, and then ended in order: no write of one after the other's first."""
    one, two = replicas
    cluster, before = one.cluster, len(one.writes())
    claim(cluster, namespace, "models")
    names = [f"s{number}" for number in range(12)]
    create(cluster, namespace, names[:6])
    eventually(lambda: agents(one, before), "the first replica is at work")
    assert one.process
    one.process.kill()
    one.process.wait()
    create(cluster, namespace, names[6:9])
    eventually(lambda: two.leads() == 1, "the second has taken over")
    eventually(lambda: all(exists(cluster, namespace, "deploy", name) for name in names[:9]), "nothing was missed")
    start_standby(one)
    create(cluster, namespace, names[9:11])
    held = holder(cluster)
    assert two.stop() == 0
    # Given back, and not left to run out.
    assert holder(cluster) != held
    eventually(lambda: one.leads() == 2, "the first has it back")
    create(cluster, namespace, names[11:])
    eventually(lambda: all(exists(cluster, namespace, "pdb", name) for name in names), "nothing was missed")
    turns = [agent for agent, _ in itertools.groupby(agents(one, before))]
    assert len(turns) == len(set(turns)) == 3, turns
    lease = cluster.get("lease", "zimage-operator", "-n", "zimage-system")["spec"]
    assert turns[-1].endswith(lease["holderIdentity"])


@pytest.mark.control_plane
def test_a_replica_whose_lease_was_taken_ends_and_writes_nothing_more(replicas: list[Operator], namespace: str) -> None:
    one, _ = replicas
    cluster = one.cluster
    eventually(lambda: one.leads() == 2, "it leads")
    patch = '{"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}'
    cluster.kubectl("-n", "zimage-system", "patch", "lease", "zimage-operator", "--type=merge", "-p", patch)
    assert one.process
    assert one.process.wait(60) == 1
    assert "was taken by thief" in one.log.read_text()
    before = len(one.writes())
    create(cluster, namespace, ["late"])
    # A new process of it waits for its turn.
    start_standby(one)
    assert one.writes()[before:] == []
    assert cluster.get("lease", "zimage-operator", "-n", "zimage-system")["spec"]["holderIdentity"] == "thief"
    cluster.kubectl("-n", "zimage-system", "delete", "lease", "zimage-operator")
    eventually(lambda: one.leads() == 3, "the Lease is free, and it leads")
    eventually(lambda: exists(cluster, namespace, "deploy", "late"), "it works again")
