"""The probes: what a stranger in the cluster can reach, and what the workers say that they loaded.

Only from inside the cluster: elsewhere a pod's address means nothing. The operator is not in an
allowed namespace, so it is a stranger on 7860; the policy admits it to the management port.
Both facts together mean that the policy is enforced, and a broken network is not mistaken for
a safe one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import aiohttp

from . import metrics
from .cache import Cache
from .edge_probe import knock
from .manifest import Key
from .models import FetchReport, read_report
from .names import HTTP_PORT, MANAGEMENT_PORT
from .observed import EdgeReport, PodFacts, Posture, Report, read_posture
from .proof import is_due
from .rounds import Rounds
from .settings import Edge

# A policy engine that drops answers nothing at all: this is how long silence is listened to.
CONNECT_SECONDS = 2.0
POSTURE_SECONDS = 5.0
# A posture is a few hundred bytes; more would be somebody else's.
POSTURE_BYTES = 65536
# An engine needs a moment after a change of policy (Calico: 0.2 s); an open port is looked at again.
CONFIRMATIONS = 3
CONFIRM_SECONDS = 1.0


class Verifier:
    """Probes the pods of every service and its published URL, and remembers what it found."""

    def __init__(self, cache: Cache, interval_seconds: float, edge: Edge, changed: Callable[[Key], None]) -> None:
        self.cache, self.interval_seconds, self.edge, self.changed = cache, interval_seconds, edge, changed
        self.pods: Rounds[str, Report] = Rounds(interval_seconds)
        self.edges: Rounds[Key, EdgeReport] = Rounds(interval_seconds)
        self.fetches: Rounds[str, FetchReport] = Rounds(interval_seconds)
        # The pods that are looked at for each service, and those of its downloads.
        self.followed: dict[Key, set[str]] = {}
        self.asked: dict[Key, set[str]] = {}

    @property
    def enabled(self) -> bool:
        """Whether this operator probes at all."""
        return self.interval_seconds > 0

    def follow(self, key: Key, policies: str, host: str, route: str, htpasswd: str = "") -> None:
        """Keep every running pod of a service under watch, and the host that it is published under.

        `policies` and `route` are fingerprints of what admits to the pods and to the host: every
        change of them is followed by looks. Generated credentials that are new (`htpasswd`, the
        file's SHA-256) are looked for until the workers hold them.
        """
        alive = {pod.uid for pod in self.cache.pods(key)}
        for uid in self.followed.get(key, set()) - alive:
            self.pods.drop(uid)
        self.followed[key] = alive
        for pod in self.running(key):
            state = f"{pod.ip} {pod.ready} {policies} {htpasswd}"
            holds = partial(settled, basic_sha256=htpasswd)
            self.pods.follow(pod.uid, state, partial(probe, pod), partial(self.told, key), holds)
        if host and self.edge.enabled and self.enabled:
            self.edges.follow(
                key, f"{host} {route}", partial(knock, host, self.edge), partial(self.heard, key), edge_settled
            )
        else:
            self.edges.drop(key)

    def follow_downloads(self, key: Key) -> None:
        """Ask every running download of a service how far it is; a figure that is the same is no news."""
        running = {pod.uid: pod for pod in self.downloads(key)}
        for uid in self.asked.get(key, set()) - running.keys():
            self.fetches.drop(uid)
        self.asked[key] = set(running)
        for uid, pod in running.items():
            self.fetches.follow(uid, pod.ip, partial(progress, pod), partial(self.progressed, key), never)

    def progressed(self, key: Key, report: FetchReport, news: bool) -> None:
        """Take in how far a download is."""
        if news:
            self.changed(key)

    def downloads(self, key: Key) -> list[PodFacts]:
        """Give the pods of a service's downloads that can be asked."""
        found = self.cache.fetchers(key)
        return [pod for pod in found if pod.ip and pod.phase == "Running" and not pod.deleting and self.enabled]

    def running(self, key: Key) -> list[PodFacts]:
        """Give the pods of a service that can be probed."""
        return [pod for pod in self.cache.pods(key) if pod.ip and not pod.deleting and self.enabled]

    def told(self, key: Key, report: Report, news: bool) -> None:
        """Take in a look at a pod; ask for a new status where it is news, or the time in it too old."""
        metrics.PROBES.labels(report.isolation).inc()
        if report.isolation != "untested" and report.at and key in self.cache.services:
            metrics.LAST_PROBE.labels(*key).set(report.at.timestamp())
            status = self.cache.services[key].get("status") or {}
            news = news or is_due(str(status.get("lastProbeTime") or ""), report.at)
        if news:
            self.changed(key)

    def heard(self, key: Key, report: EdgeReport, news: bool) -> None:
        """Take in an answer of the edge."""
        metrics.EDGE_PROBES.labels(report.result).inc()
        if news:
            self.changed(key)

    def pending(self, key: Key, host: str) -> bool:
        """Whether something of a service has not been looked at since this process began."""
        unseen = any(pod.uid not in self.pods.reports for pod in self.running(key))
        unseen |= any(pod.uid not in self.fetches.reports for pod in self.downloads(key))
        return unseen or bool(host and self.edge.enabled and self.enabled and key not in self.edges.reports)

    def forget(self, key: Key) -> None:
        """A service is gone: look at nothing of it any more."""
        for uid in self.followed.pop(key, set()):
            self.pods.drop(uid)
        for uid in self.asked.pop(key, set()):
            self.fetches.drop(uid)
        self.edges.drop(key)

    async def close(self) -> None:
        """End every watch."""
        await self.pods.close()
        await self.edges.close()
        await self.fetches.close()

    def problems(self, now: float) -> list[str]:
        """Say which probes are dead or overdue."""
        return [*self.pods.problems(now), *self.edges.problems(now), *self.fetches.problems(now)]


def settled(report: Report, basic_sha256: str = "") -> bool:
    """Whether a report will stay as it is for a while; `basic_sha256`: once the worker holds this file.

    Not that of a worker which is not ready (`untested`): it loads, and may fail to at any moment.
    """
    posture = report.posture
    if posture and basic_sha256 not in ("", posture.basic_sha256):
        return False
    missing = posture is None or posture.auth_problems or posture.certificate_problems or posture.model_problems
    return not missing and report.isolation == "blocked"


def edge_settled(report: EdgeReport) -> bool:
    """Whether the edge has answered as it should."""
    return report.result == "refused"


def never(_: FetchReport) -> bool:
    """A download moves on: it is asked again soon."""
    return False


async def progress(pod: PodFacts) -> FetchReport:
    """Ask a download how far it is; one that does not answer has told nothing."""
    try:
        return read_report(json.dumps(await fetch(pod.ip, "progress"))) or FetchReport()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return FetchReport()


async def probe(pod: PodFacts) -> Report:
    """Look at one pod: what it loaded, and whether its port 7860 is closed to us."""
    # At once: where the network is cut both are silences to be listened to.
    isolation, (posture, problem) = await asyncio.gather(isolated(pod), loaded(pod))
    return Report(isolation, posture, problem, datetime.now(UTC))


async def loaded(pod: PodFacts) -> tuple[Posture | None, str]:
    """Ask a worker what it loaded; without an answer say what went wrong."""
    try:
        return read_posture(await fetch(pod.ip, "posture")), ""
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return None, type(error).__name__


async def isolated(pod: PodFacts) -> str:
    """Judge the isolation of one pod; an open port is confirmed before it is called one."""
    if not pod.ready:
        return "untested"  # before the worker listens on 7860, silence there shows nothing
    address = pod.ip
    for attempt in range(CONFIRMATIONS):
        if attempt:
            await asyncio.sleep(CONFIRM_SECONDS)
        before = await connects(address, MANAGEMENT_PORT)
        closed = not await connects(address, HTTP_PORT)
        # Once more: a network that broke in between must not count as a wall.
        after = await connects(address, MANAGEMENT_PORT)
        if closed:
            return "blocked" if before and after else "unreachable"
    return "open"


async def connects(address: str, port: int) -> bool:
    """Open a TCP connection and close it; refused, dropped and unreachable all mean no."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(address, port)
    except (TimeoutError, OSError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def fetch(address: str, page: str) -> object:
    """Read a page of a pod's management port."""
    host = f"[{address}]" if ":" in address else address
    timeout = aiohttp.ClientTimeout(total=POSTURE_SECONDS)
    url = f"http://{host}:{MANAGEMENT_PORT}/{page}"
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, allow_redirects=False) as answer:
        answer.raise_for_status()
        return json.loads(await answer.content.read(POSTURE_BYTES))
