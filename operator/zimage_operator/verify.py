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

import aiohttp

from . import metrics
from .cache import Cache, Key
from .names import HTTP_PORT, MANAGEMENT_PORT
from .observed import PodFacts, Report, read_posture

# A policy engine that drops answers nothing at all: this is how long silence is listened to.
CONNECT_SECONDS = 2.0
POSTURE_SECONDS = 5.0
# A posture is a few hundred bytes; more would be somebody else's.
POSTURE_BYTES = 65536
# An engine needs a moment after a change of policy (Calico: 0.2 s); an open port is looked at again.
CONFIRMATIONS = 3
CONFIRM_SECONDS = 1.0
# While something is missing the worker is asked often: whoever mends it waits in front of the screen.
RETRY_SECONDS = 3.0
PARALLEL = 16


class Verifier:
    """Probes the pods of every service, in the background, and remembers what it found."""

    def __init__(self, cache: Cache, interval_seconds: float, changed: Callable[[Key], None]) -> None:
        self.cache, self.interval_seconds, self.changed = cache, interval_seconds, changed
        self.reports: dict[str, Report] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.limit = asyncio.Semaphore(PARALLEL)
        # What the pod was like when it was probed: a change asks for a new probe at once.
        self.states: dict[str, str] = {}
        # Digest of the htpasswd file that a service's workers are to hold; empty: any.
        self.expected: dict[Key, str] = {}

    @property
    def enabled(self) -> bool:
        """Whether this operator probes at all."""
        return self.interval_seconds > 0

    def follow(self, key: Key, fingerprint: str, basic_sha256: str = "") -> None:
        """Keep every running pod of a service under watch; `fingerprint` is that of its policy.

        Generated credentials that are new (`basic_sha256`) are looked for until the workers hold them.
        """
        self.expected[key] = basic_sha256
        pods = {pod.uid: pod for pod in self.cache.pods(key) if pod.ip and not pod.deleting and self.enabled}
        for uid, pod in pods.items():
            state = f"{pod.ip} {pod.ready} {fingerprint} {basic_sha256}"
            if self.states.get(uid) != state:
                self.stop(uid)
                self.states[uid] = state
                self.tasks[uid] = asyncio.create_task(self.watch(key, pod))

    def clean(self) -> None:
        """Forget the pods that are gone."""
        alive = {seen.uid for ref, seen in self.cache.children.items() if ref.kind == "Pod"}
        for uid in set(self.states) - alive:
            self.stop(uid)
            self.states.pop(uid, None)
            self.reports.pop(uid, None)

    def stop(self, uid: str) -> None:
        """End the watch over one pod."""
        task = self.tasks.pop(uid, None)
        if task:
            task.cancel()

    async def close(self) -> None:
        """End every watch."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def watch(self, key: Key, pod: PodFacts) -> None:
        """Look at one pod again and again: soon while something is missing, else at the interval."""
        while True:
            async with self.limit:
                report = await probe(pod)
            metrics.PROBES.labels(report.isolation).inc()
            if self.reports.get(pod.uid) != report:
                self.reports[pod.uid] = report
                self.changed(key)
            calm = settled(report, self.expected.get(key, ""))
            await asyncio.sleep(self.interval_seconds if calm else RETRY_SECONDS)


def settled(report: Report, basic_sha256: str = "") -> bool:
    """Whether a report will stay as it is for a while; `basic_sha256`: once the worker holds this file."""
    posture = report.posture
    if posture and basic_sha256 not in ("", posture.basic_sha256):
        return False
    missing = posture is None or posture.auth_problems or posture.certificate_problems or posture.model_problems
    return not missing and report.isolation in ("blocked", "untested")


async def probe(pod: PodFacts) -> Report:
    """Look at one pod: what it loaded, and whether its port 7860 is closed to us."""
    try:
        posture, problem = read_posture(await fetch(pod.ip)), ""
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        posture, problem = None, type(error).__name__
    # Before the worker listens on 7860, silence there shows nothing.
    isolation = await isolated(pod.ip) if pod.ready else "untested"
    return Report(isolation, posture, problem)


async def isolated(address: str) -> str:
    """Judge the isolation of one address; an open port is confirmed before it is called one."""
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
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), CONNECT_SECONDS)
    except (TimeoutError, OSError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def fetch(address: str) -> object:
    """Ask a worker what it loaded."""
    host = f"[{address}]" if ":" in address else address
    timeout = aiohttp.ClientTimeout(total=POSTURE_SECONDS)
    url = f"http://{host}:{MANAGEMENT_PORT}/posture"
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, allow_redirects=False) as answer:
        answer.raise_for_status()
        return json.loads(await answer.content.read(POSTURE_BYTES))
