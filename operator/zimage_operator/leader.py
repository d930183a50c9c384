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


class LostLease(OperatorError):
    """Another replica may be acting: this process must not."""


class Leader:
    """Takes, renews and gives back the Lease."""

    def __init__(self, api: Api, namespace: str, identity: str) -> None:
        self.api, self.identity = api, identity
        self.path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        # When the holder's record last changed, by our own clock: clocks of others are not trusted.
        self.seen: tuple[str, float] = ("", 0.0)

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while not await self.attempt():
            await asyncio.sleep(PERIOD_SECONDS)
        metrics.LEADER.set(1)
        log.info("leading as %s", self.identity)

    async def attempt(self) -> bool:
        """Try once to take or keep the Lease."""
        try:
            lease = await self.api.request("GET", f"{self.path}/{LEASE}", kind="Lease")
        except Denied as error:
            if error.code != 404:
                raise
            return await self.write("POST", self.path, self.record({}))
        except ClusterUnavailable:
            return False
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") not in (self.identity, "", None) and not self.expired(spec):
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
        except (Conflict, ClusterUnavailable):
            return False
        except Denied as error:
            if error.reason == "AlreadyExists":
                return False
            raise
        return True

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LostLease: no renewal for too long; the process has to end.
        """
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            try:
                # Not wait_for: of Python 3.11 it may lose the cancellation that ends this loop.
                async with asyncio.timeout(RENEW_WITHIN_SECONDS):
                    held = await self.attempt()
            except TimeoutError:
                held = False
            if held:
                renewed = loop.time()
            elif loop.time() - renewed > RENEW_WITHIN_SECONDS:
                raise LostLease(f"could not renew the Lease {LEASE} for {RENEW_WITHIN_SECONDS:.0f} s")

    async def release(self) -> None:
        """Give the Lease back, so that the next one need not wait for it to run out."""
        try:
            lease = await self.api.request("GET", f"{self.path}/{LEASE}", kind="Lease")
            if lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self.api.request("PUT", f"{self.path}/{LEASE}", kind="Lease", body=lease)
        except (Denied, OperatorError) as error:
            log.warning("the Lease was not given back: %s", error)
        metrics.LEADER.set(0)
