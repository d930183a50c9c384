"""The Lease: of several replicas exactly one acts.

client-go's election in short: hold for 15 s, renew every 2 s, give up after 10 s without a
renewal. Who cannot renew ends its process before the Lease runs out: fencing by death.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from . import metrics
from .api import Api, Denied
from .errors import ClusterUnavailable, Conflict, OperatorError

log = logging.getLogger(__name__)

LEASE = "zimage-operator"
HOLD_SECONDS = 15
RENEW_WITHIN_SECONDS = 10.0
PERIOD_SECONDS = 2.0
# How often a standby looks: what it waits for after a SIGTERM of the other one.
STANDBY_SECONDS = 1.0
# A server that does not answer must not keep a process that has to end.
RELEASE_SECONDS = 2.0


class LostLease(OperatorError):
    """Another replica may be acting: this process must not."""


class Leader:
    """Takes, renews and gives back the Lease."""

    def __init__(self, api: Api, namespace: str, identity: str) -> None:
        self.api, self.identity = api, identity
        self.path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        # When the holder's record last changed, by our own clock: clocks of others are not trusted.
        self.seen: tuple[str, float] = ("", 0.0)
        # Until when it is ours whatever happens, by our own clock; None: it is not.
        self.until: float | None = None

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while not await self.attempt():
            await asyncio.sleep(STANDBY_SECONDS)
        metrics.LEADER.set(1)
        log.info("leading as %s", self.identity)

    def check(self) -> None:
        """Let a write pass only while no other replica can have the Lease.

        Raises:
            LostLease: this process was stopped for a while, or did not get its turn.
        """
        if self.until is None or asyncio.get_running_loop().time() > self.until:
            raise LostLease(f"the Lease {LEASE} may be another replica's by now: nothing is written")

    async def attempt(self) -> bool:
        """Try once to take or keep the Lease."""
        # From before the request: whoever watches counts from no earlier than that.
        began = asyncio.get_running_loop().time()
        try:
            held = await self.take()
        except (Denied, ClusterUnavailable, Conflict) as error:
            log.warning("the Lease was not to be had: %s", error)
            return False
        if held:
            self.until = began + HOLD_SECONDS
        return held

    async def take(self) -> bool:
        """Write our name into the Lease unless it is another's.

        Raises:
            LostLease: it was ours, and is another's now.
        """
        try:
            lease = await self.api.request("GET", f"{self.path}/{LEASE}", kind="Lease")
        except Denied as error:
            if error.code != 404:
                raise
            return await self.write("POST", self.path, self.record({}))
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity")
        if holder and holder != self.identity and self.until is not None:
            self.until = None
            raise LostLease(f"the Lease {LEASE} was taken by {holder}")
        if holder not in (self.identity, "", None) and not self.expired(spec):
            return False
        return await self.write("PUT", f"{self.path}/{LEASE}", lease | self.record(lease))

    def expired(self, spec: dict[str, Any]) -> bool:
        """Whether the holder has not renewed for as long as it may."""
        now = asyncio.get_running_loop().time()
        stamp = f"{spec.get('holderIdentity')} {spec.get('renewTime')}"
        if self.seen[0] != stamp:
            self.seen = (stamp, now)
        return now - self.seen[1] > float(spec.get("leaseDurationSeconds") or HOLD_SECONDS)

    def record(self, old: dict[str, Any]) -> dict[str, Any]:
        """Build the Lease as we want it."""
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = old.get("spec") or {}
        ours = spec.get("holderIdentity") == self.identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": old.get("metadata") or {"name": LEASE},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": HOLD_SECONDS,
                "acquireTime": spec.get("acquireTime") if ours else moment,
                "renewTime": moment,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (0 if ours else 1),
            },
        }

    async def write(self, verb: str, path: str, body: dict[str, Any]) -> bool:
        """Write the Lease; whoever was faster wins."""
        try:
            await self.api.request(verb, path, kind="Lease", body=body)
        except Conflict:
            return False
        except Denied as error:
            if error.reason == "AlreadyExists":
                return False
            raise
        return True

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LostLease: no renewal for too long, or it is another's; the process has to end.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            end = (self.until or 0.0) - HOLD_SECONDS + RENEW_WITHIN_SECONDS
            try:
                # Not wait_for: of Python 3.11 it may lose the cancellation that ends this loop.
                async with asyncio.timeout_at(end):
                    held = await self.attempt()
            except TimeoutError:
                held = False
            if not held and loop.time() > end:
                raise LostLease(f"could not renew the Lease {LEASE} for {RENEW_WITHIN_SECONDS:.0f} s")

    async def release(self) -> None:
        """Give the Lease back if it is ours, so that the next one need not wait for it to run out."""
        metrics.LEADER.set(0)
        if self.until is None or asyncio.get_running_loop().time() > self.until:
            return
        self.until = None
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self.give_back()
        except (Denied, OperatorError, TimeoutError) as error:
            log.warning("the Lease was not given back: %r", error)

    async def give_back(self) -> None:
        """Take our name out of the Lease."""
        lease = await self.api.request("GET", f"{self.path}/{LEASE}", kind="Lease")
        if lease["spec"].get("holderIdentity") == self.identity:
            lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self.api.request("PUT", f"{self.path}/{LEASE}", kind="Lease", body=lease)
