"""The operator's figures, on the real API server with the fake node: `make bench-operator`.

Times come from the API server's audit log, so that no client's own delay is in them.
Each figure is a row with its goal; `--only` chooses some, `--services` and the others the sizes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import aiohttp
from audit_tail import Entry
from client import MERGE
from fleet import HOME, Fleet, fleet, orphans, service

from faults.proxy import Proxy
from support import Operator, eventually
from zimage_operator.kinds import BY_NAME, SERVICES

Row = tuple[str, str, str, bool]
# Long after the slowest machine would have been done.
PATIENCE_SECONDS = 1800
TAKEOVERS = 3
FAULTS = 24
# Before a Lease that nobody gave back can be taken.
LEASE_SECONDS = 15
HOLE = {"spec": {"ingress": [{"from": [{"namespaceSelector": {}}], "ports": [{"port": 7860, "protocol": "TCP"}]}]}}


def main() -> int:
    """Measure and print; exit code 1 where a goal is missed."""
    options = arguments()
    rows: list[Row] = []
    for row in measure(options):
        name, measured, goal, met = row
        rows.append(row)
        print(f"| {name} | {measured} | {goal} | {'' if met else '**missed**'} |", flush=True)
    return 0 if all(met for *_, met in rows) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000, help="how many resources")
    parser.add_argument(
        "--more", type=int, default=5000, help="how many for the memory of a large installation; 0: none"
    )
    parser.add_argument("--changes", type=int, default=100, help="changes, and hand edits, of which p95 is taken")
    parser.add_argument("--rest", type=float, default=600, help="seconds of rest")
    parser.add_argument("--rival", type=float, default=60, help="seconds of a competitor that rewrites one child")
    parser.add_argument("--py-spy", default="", help="a py-spy that records the first row to operator-profile.txt")
    parser.add_argument("--only", default="", help="rows by name, with commas between")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> Iterator[Row]:
    wanted = set(filter(None, options.only.split(",")))
    print(f"load {os.getloadavg()[0]:.1f}, {options.services} services", flush=True)
    compare = not wanted or "create" in wanted
    # Before and after, by half as many each: on a shared machine a minute makes all the difference.
    bare = [bare_rate(options.services // 2)] if compare else []
    with fleet(options.services) as ours:
        ours.start()
        with profiled(ours, options.py_spy):
            made = create(ours)
        bare += [bare_rate(options.services // 2)] if compare else []
        if compare:
            yield against(made, bare)
        steps: dict[str, Callable[[], Row]] = {
            "restart": lambda: restart(ours, 4, 150),
            "change": lambda: change(ours, options.changes),
            "drift": lambda: drift(ours, options.changes),
            "rival": lambda: rival(ours, options.rival, options.changes),
            "takeover": lambda: takeover(ours),
            "rest": lambda: rest(ours, options.rest),
            "faults": lambda: faults(ours),
        }
        for name, step in steps.items():
            if not wanted or name in wanted:
                yield step()
    if options.more and (not wanted or "more" in wanted):
        with fleet(options.more) as ours:
            ours.start()
            create(ours)
            yield restart(ours, 0, 300)
    print(f"load {os.getloadavg()[0]:.1f} at the end", flush=True)


@contextmanager
def profiled(ours: Fleet, program: str) -> Iterator[None]:
    """Record where the operator's time goes, as one line for each stack with its samples."""
    if not program:
        yield
        return
    command = [program, "record", "-p", str(ours.pid), "-r", "200", "-f", "raw", "-o", "operator-profile.txt"]
    spy = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    yield
    spy.send_signal(signal.SIGINT)
    spy.wait()


def bare_rate(count: int) -> float:
    """Children written per second by a client that does nothing else, on a control plane of its own."""

    async def write(ours: Fleet) -> None:
        everything = [orphans(number) for number in range(count)]
        async with ours.client() as client:

            async def one(items: list[dict[str, object]]) -> None:
                for item in items:
                    await client.apply(item)

            await client.all(map(one, everything))

    with fleet(count) as ours:
        ours.tail.new()
        asyncio.run(write(ours))
        return rate([item for item in ours.tail.new() if item.user.endswith(":bench") and item.code == 201])


def rate(entries: list[Entry]) -> float:
    return len(entries) / (max(item.at for item in entries) - min(item.at for item in entries))


@dataclass(frozen=True)
class Made:
    """How a creation went."""

    text: str
    rate: float
    seconds: float
    every: float
    cpu: float


def create(ours: Fleet) -> Made:
    """From the first resource to the last child.

    The route waits for a worker, so for the scheduler and the fake node too, by design: what is
    compared with the bare client is everything else.
    """
    each, cpu = len(orphans(0)), ours.cpu_seconds()
    ours.tail.new()
    asyncio.run(ours.apply(range(ours.count)))
    found = ours.tail.until(lambda seen: len(born(seen)) >= each * ours.count, PATIENCE_SECONDS)
    spent = ours.cpu_seconds() - cpu
    first = min(item.at for item in found if item.resource == SERVICES.plural)
    free = [item.at for item in born(found) if item.resource != "ingresses"]
    seconds, every = max(free) - first, max(item.at for item in born(found)) - first
    found += ours.tail.quiet()
    asked = Counter(f"{one.verb} {one.resource}/{one.subresource}".rstrip("/") for one in found if one.ours)
    print(f"  requests: {dict(asked.most_common(12))}", flush=True)
    print(f"  until all is Ready: CPU {ours.cpu_seconds() - cpu:.1f} s, RSS {ours.memory_mib():.0f} MiB", flush=True)
    text = f"{ours.count} applied → all {each * ours.count} children exist"
    return Made(text, len(free) / seconds, seconds, every, spent)


def against(made: Made, bare: list[float]) -> Row:
    """Compare with the bare client."""
    ratio = made.rate / statistics.mean(bare) if bare else 0.0
    speeds = " and ".join(f"{one:.0f}" for one in bare)
    text = f"{made.rate:.0f} children/s of the bare client's {speeds}: {ratio:.2f}"
    measured = f"{text}; {made.seconds:.1f} s, with the routes {made.every:.1f} s; CPU {made.cpu:.1f} s"
    return made.text, measured, "≥ 0.8; ≤ 20 s", ratio >= 0.8 and made.cpu <= 20


def born(entries: list[Entry]) -> list[Entry]:
    """The children that the operator has made."""
    return [item for item in entries if item.write and item.code == 201]


def restart(ours: Fleet, cpu_goal: float, memory_goal: float) -> Row:
    """Ended and started again with nothing changed."""
    assert ours.operator.stop() == 0
    ours.tail.new()
    ours.start()
    writes = sum(item.write for item in ours.tail.quiet())
    cpu, memory, peak = ours.cpu_seconds(), ours.memory_mib(), ours.memory_mib("VmHWM")
    measured = f"{writes} writes, CPU {cpu:.1f} s, RSS {memory:.0f} MiB (peak {peak:.0f})"
    goal = f"0; ≤ {cpu_goal} s; ≤ {memory_goal} MiB" if cpu_goal else f"0; –; ≤ {memory_goal} MiB"
    met = writes == 0 and memory <= memory_goal and (not cpu_goal or cpu <= cpu_goal)
    return f"warm restart with {ours.count}", measured, goal, met


def change(ours: Fleet, count: int) -> Row:
    """One resource changed among all: from its write to its child's."""
    seconds = changes(ours, count)
    return f"one change among {ours.count} → its child", spread(seconds), "p95 < 500 ms", p95(seconds) < 0.5


def changes(ours: Fleet, count: int) -> list[float]:
    """Seconds from a change to the child's write, of some resources one after the other."""

    async def go() -> None:
        async with ours.client() as client:
            for number in random.sample(range(1, ours.count), min(count, ours.count - 1)):
                path = SERVICES.path(*where(number))
                # Another value each time, or a second round would change nothing.
                body = {"spec": {"network": {"allowedNamespaces": ["dmz", f"other-{random.randrange(10**6)}"]}}}
                await client.send("PATCH", path, body, MERGE)
                await asyncio.sleep(0.1)

    ours.tail.new()
    asyncio.run(go())
    return followed(ours, [], SERVICES.plural)


def followed(ours: Fleet, found: list[Entry], cause: str) -> list[float]:
    """Wait until each change had its answer; give the seconds that took, and keep what was seen in `found`."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        time.sleep(1)
        found += ours.tail.new()
        seconds, open_ = delays(found, cause)
        if not open_:
            return seconds
    raise TimeoutError(f"{open_} changes were not followed by a write")


def where(number: int) -> tuple[str, str]:
    head = service(number)["metadata"]
    return head["namespace"], head["name"]


def delays(entries: list[Entry], cause: str) -> tuple[list[float], int]:
    """Seconds from a write of ours to the cause until the operator's write of the NetworkPolicy of that name.

    And how many still wait for theirs.
    """
    began: dict[tuple[str, str], float] = {}
    found = []
    # By their beginnings: a watch tells of a write before it has been answered.
    for item in sorted(entries, key=lambda one: one.began):
        key = item.namespace, item.name
        if item.verb == "patch" and item.resource == cause and item.user.endswith(":bench"):
            began[key] = item.began
        elif item.write and item.resource == "networkpolicies" and key in began:
            found.append(item.at - began.pop(key))
    return found, len(began)


def drift(ours: Fleet, count: int) -> Row:
    """The NetworkPolicy of some services widened by hand: from that write to ours."""

    async def go() -> None:
        async with ours.client() as client:
            for number in random.sample(range(1, ours.count), min(count, ours.count - 1)):
                await client.send("PATCH", BY_NAME["NetworkPolicy"].path(*where(number)), HOLE, MERGE)
                await asyncio.sleep(0.1)

    ours.tail.quiet(2)
    asyncio.run(go())
    seconds = followed(ours, [], "networkpolicies")
    return f"hand edit among {ours.count} → repaired", spread(seconds), "p95 < 1 s", p95(seconds) < 1


def rival(ours: Fleet, seconds: float, count: int) -> Row:
    """A competitor that rewrites one child fifty times a second, and what the others feel of it.

    Also what they feel of the same rewrites of a Deployment that is nobody's: so much of it is the API server's
    and its controllers' part.
    """
    space, name = where(0)
    deployments = BY_NAME["Deployment"]
    labels = {"app": "stranger"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nothing:1"}]}}
    stranger = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "stranger"},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
    }

    async def rewrite(path: str) -> None:
        end = time.monotonic() + seconds
        async with ours.client() as client:
            number = 0
            while time.monotonic() < end:
                number += 1
                body = {"spec": {"progressDeadlineSeconds": 1000 + number % 2}}
                await asyncio.gather(client.send("PATCH", path, body, MERGE), asyncio.sleep(0.02))
            print(f"  {number / seconds:.0f} rewrites a second", flush=True)

    async def meanwhile(path: str, found: list[Entry]) -> list[float]:
        battle = asyncio.create_task(rewrite(path))
        latencies = await asyncio.to_thread(changes_within, ours, seconds - 5, found)
        await battle
        return latencies

    async def nobodys() -> list[float]:
        async with ours.client() as client:
            await client.send("POST", deployments.path("default"), stranger)
            latencies = await meanwhile(deployments.path("default", "stranger"), [])
            await client.send("DELETE", deployments.path("default", "stranger"))
        return latencies

    calm = p95(changes(ours, count))
    ours.tail.quiet(2)
    beside = p95(asyncio.run(nobodys()))
    ours.tail.quiet(2)
    found: list[Entry] = []
    felt = p95(asyncio.run(meanwhile(deployments.path(space, name), found)))
    found += ours.tail.new()
    ours_on_it = [item for item in found if item.write and (item.namespace, item.name) == (space, name)]
    per_second = len(ours_on_it) / seconds
    print(f"  {Counter(item.resource + item.subresource for item in ours_on_it)}", flush=True)
    others = (
        f"{felt * 1000:.0f} ms against {calm * 1000:.0f} ms; beside one of nobody's Deployment {beside * 1000:.0f} ms"
    )
    measured = f"{per_second:.1f} writes/s on it; p95 of the others {others}"
    return f"a competitor for {seconds:.0f} s", measured, "≤ 5; ≤ 2×", per_second <= 5 and felt <= 2 * calm


def changes_within(ours: Fleet, seconds: float, found: list[Entry]) -> list[float]:
    """Change one resource after the other for some seconds, and keep every request that was seen."""

    async def go() -> None:
        end = time.monotonic() + seconds
        async with ours.client() as client:
            while time.monotonic() < end:
                path = SERVICES.path(*where(random.randrange(1, ours.count)))
                body = {"spec": {"network": {"allowedNamespaces": ["dmz", f"other-{random.randrange(10**6)}"]}}}
                await client.send("PATCH", path, body, MERGE)
                await asyncio.sleep(0.3)

    asyncio.run(go())
    return followed(ours, found, SERVICES.plural)


def takeover(ours: Fleet) -> Row:
    """The leader killed, and ended in order, with a warm standby: until that one leads."""
    second = Operator(ours.cluster, ours.operator.log.parent / "second")
    second.log.parent.mkdir()
    ours.tail.quiet()
    found: dict[str, list[float]] = {"SIGKILL": [], "SIGTERM": []}
    leader, standby = ours.operator, second
    for name, number in (("SIGKILL", signal.SIGKILL), ("SIGTERM", signal.SIGTERM)) * TAKEOVERS:
        standby.start()
        eventually(lambda standby=standby: ready(standby), "the standby is warm", PATIENCE_SECONDS)
        leads = standby.leads()
        assert leader.process
        leader.process.send_signal(number)
        began = time.monotonic()
        while standby.leads() == leads:
            time.sleep(0.01)
        found[name].append(time.monotonic() - began)
        leader.process.wait()
        leader, standby = standby, leader
    ours.operator = leader
    writes = sum(item.write for item in ours.tail.quiet())
    worst = {name: max(seconds) for name, seconds in found.items()}
    measured = (
        f"killed {worst['SIGKILL']:.1f} s, ended {worst['SIGTERM']:.1f} s (worst of {TAKEOVERS}); {writes} writes"
    )
    met = worst["SIGKILL"] <= 20 and worst["SIGTERM"] <= 2 and writes == 0
    return f"takeover with {ours.count}", measured, "≤ 20 s; ≤ 2 s; 0", met


def faults(ours: Fleet) -> Row:
    """Watches cut, 410s and API servers killed, in turns, while resources are changed."""
    ours.operator.stop()
    wanted: dict[int, str] = {}
    ends: list[str] = []

    def again() -> None:
        """Start it again as the kubelet would, where it has ended: its Lease was not to be had for ten seconds."""
        text = ours.operator.log.read_text()
        if ended(ours.operator):
            ends.append(text.splitlines()[-1])
            began_at.append(len(text))
            ours.operator.start()

    def settled() -> bool:
        """Whether the last one that was started leads, and has gone on for longer than a Lease lasts."""
        again()
        if "leading as" not in ours.operator.log.read_text()[began_at[-1] :]:
            return False
        time.sleep(LEASE_SECONDS)
        return not ended(ours.operator)

    async def load(stop: asyncio.Event) -> None:
        async with ours.client() as client:
            while not stop.is_set():
                number, other = random.randrange(ours.count), f"other-{random.randrange(10**6)}"
                body = {"spec": {"network": {"allowedNamespaces": ["dmz", other]}}}
                # Away for a moment: whether this one was made is not known, so the next must be.
                with suppress(aiohttp.ClientError, RuntimeError):
                    wanted.pop(number, None)
                    await client.send("PATCH", SERVICES.path(*where(number)), body, MERGE)
                    wanted[number] = other
                await asyncio.sleep(0.1)

    async def harm() -> None:
        stop = asyncio.Event()
        busy = asyncio.create_task(load(stop))
        for number in range(FAULTS):
            await asyncio.to_thread(harms[number % len(harms)])
            await asyncio.sleep(2)
            again()
        stop.set()
        await busy

    with Proxy(ours.cluster) as proxy:
        harms = (proxy.cut_watches, proxy.expire_watches, ours.cluster.restart_api_server)
        direct, ours.operator.kubeconfig = ours.operator.kubeconfig, proxy.kubeconfig(HOME, "zimage-operator")
        began_at = [len(ours.operator.log.read_text())]
        ours.start()
        ours.tail.quiet()
        before, began = ours.memory_mib(), time.monotonic()
        asyncio.run(harm())
        spent = time.monotonic() - began
        eventually(settled, "it leads and stays", PATIENCE_SECONDS)
        ours.tail.quiet(10)
        policies = ours.cluster.get("netpol", "-A")["items"]
        doors = {item["metadata"]["name"]: json.dumps(item["spec"]) for item in policies}
        missed = [number for number, other in wanted.items() if f'"{other}"' not in doors[f"s{number}"]]
        after = ours.memory_mib()
        ours.operator.stop()
    ours.operator.kubeconfig = direct
    told = f"{FAULTS} faults in {spent:.0f} s, {len(wanted)} resources changed meanwhile, {len(missed)} missed"
    measured = f"{told}; RSS {before:.0f} → {after:.0f} MiB; ended for want of its Lease {len(ends)} times"
    print(*(f"  {line}" for line in ends), sep="\n", flush=True)
    met = not missed and after <= before * 1.1 and all("Lease" in line for line in ends)
    return f"watch drops, 410s and API server restarts with {ours.count}", measured, "0 missed; RSS flat", met


def ended(replica: Operator) -> bool:
    return replica.process is None or replica.process.poll() is not None


def ready(replica: Operator) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{replica.port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def rest(ours: Fleet, seconds: float) -> Row:
    """A span without a change: what is asked of the API server, and what it costs."""
    ours.tail.quiet(20)
    cpu = ours.cpu_seconds()
    time.sleep(seconds)
    asked = Counter((item.verb, item.resource) for item in ours.tail.new() if item.ours)
    writes = sum(
        number
        for (verb, resource), number in asked.items()
        if verb not in ("get", "list", "watch") and resource != "leases"
    )
    text = ", ".join(f"{number} {verb} {resource}" for (verb, resource), number in sorted(asked.items()))
    measured = f"{text}; CPU {ours.cpu_seconds() - cpu:.2f} s"
    return (
        f"requests in {seconds:.0f} s of rest with {ours.count}",
        measured,
        "Lease, watch, sweeps; 0 writes",
        writes == 0,
    )


def p95(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1]


def spread(seconds: list[float]) -> str:
    return f"p50 {statistics.median(seconds) * 1000:.0f} ms, p95 {p95(seconds) * 1000:.0f} ms of {len(seconds)}"


if __name__ == "__main__":
    sys.exit(main())
