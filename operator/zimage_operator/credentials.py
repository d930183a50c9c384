"""Generated credentials: a user and a password, made up once, which the operator can never read again.

The only right on Secrets is `create`. Whether they still exist is read off a ConfigMap at the end
of a chain of owners (children/credentials.py): Kubernetes' garbage collector deletes it with them.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

import bcrypt

from .children.credentials import basic_secret, issue, password_secret, receipt
from .cluster import Cluster
from .errors import Conflict, Issuing, NotOwned, Refused
from .manifest import Manifest, Ref, ref
from .names import GENERATED_USER, RECEIPT
from .spec import ZImageService

# 192 bits: 32 characters, below bcrypt's 72 bytes.
PASSWORD_BYTES = 24
# Every request is hashed at the edge too; a guesser has 2^192 tries before him whatever a try costs.
BCRYPT_ROUNDS = 10
# The garbage collector takes a second or two; whoever holds a name for longer is somebody else.
COLLECTED_AFTER = timedelta(seconds=20)


class Issuer:
    """Makes credentials up where there are none, and never twice while they last."""

    def __init__(self, cluster: Cluster, tell: Callable[[ZImageService], None]) -> None:
        self.cluster, self.tell = cluster, tell
        # Issues that this process has made and nothing was created under yet, with the time of their making.
        # Forgotten by a restart, which costs no more than replacing an issue once again.
        self.fresh: dict[str, datetime] = {}

    async def issue(
        self, service: ZImageService, desired: list[Manifest], now: datetime
    ) -> tuple[list[Manifest], tuple[Refused, ...]]:
        """See to it that generated credentials exist; give what may be applied, and what is in the way.

        Everything but the workers is applied whatever happens: nobody can switch off the repair of a policy
        by taking a Secret's name.

        Raises:
            Conflict, ClusterUnavailable, NamespaceTerminating: as for every other child.
        """
        try:
            if service.generated:
                await self.settle(service, now)
        except Refused as error:
            # The issue is in place already, or has just been deleted: it is settle's alone.
            others = [item for item in desired if ref(item) != ref(issue(service))]
            foreign = isinstance(error, NotOwned)
            # The workers would trust whoever stands in a Secret that is not ours: none may run with it.
            allowed = [stopped(item) if foreign else item for item in others if self.may_be(item, service, foreign)]
            return allowed, (error,)
        return desired, ()

    def may_be(self, item: Manifest, service: ZImageService, foreign: bool) -> bool:
        """Whether an object may be applied without credentials: workers only where they are to be stopped."""
        idle = item["kind"] != "Deployment" or item["spec"].get("replicas") == 0
        return idle or (foreign and self.running(service))

    def running(self, service: ZImageService) -> bool:
        """Whether the service has workers, or may have some."""
        return Ref("Deployment", service.namespace, service.name) in self.cluster.cache.children

    async def settle(self, service: ZImageService, now: datetime) -> None:
        """Bring the chain of owners one step closer to being complete.

        Raises:
            Issuing: the garbage collector is still at it.
            NotOwned: a name is taken by somebody else's object.
            Rejected: the API server does not let us create Secrets.
        """
        uid = await self.root(service, now)
        if await self.valid(service, uid):
            self.fresh.pop(uid, None)
            return
        taken = [item for item in blank(service, uid) if not await self.cluster.free(item)]
        if taken and uid not in self.fresh:
            # A part of our own chain has gone, or a crash cut it short: all of it is made anew.
            await self.cluster.delete(ref(issue(service)), uid)
            raise waiting(service, taken[0])
        # Where workers run they are not stopped for an old pair on its way out.
        if taken and self.running(service) and now - self.fresh[uid] < COLLECTED_AFTER:
            raise waiting(service, taken[0])
        if taken:
            raise foreign(taken[0])
        self.fresh.pop(uid, None)
        await self.create(service, uid)
        self.tell(service)

    async def root(self, service: ZImageService, now: datetime) -> str:
        """Bring the head of the chain in place; give its uid."""
        target = ref(issue(service))
        before = self.cluster.cache.children.get(target)
        refused = await self.cluster.apply(service, [issue(service)])
        if refused:
            raise refused[0]
        if target not in self.cluster.cache.children:
            # It stood already, and no watch has shown it yet.
            await self.cluster.look(target)
        found = self.cluster.cache.children.get(target)
        if not found:
            raise Conflict(f"ConfigMap {target.name} went while it was looked at")
        uid = found.uid
        if before is None or before.uid != uid:
            self.fresh[uid] = now
        return uid

    async def valid(self, service: ZImageService, uid: str) -> bool:
        """Whether a receipt says that both Secrets of this very issue exist."""
        known = self.cluster.receipt(service)
        if known and known.issue == uid:
            return True
        # Rare, and the answer decides whether passwords stop working: asked, not remembered.
        await self.cluster.look(Ref("ConfigMap", service.namespace, f"{service.name}-{RECEIPT}"))
        known = self.cluster.receipt(service)
        return bool(known and known.issue == uid)

    async def create(self, service: ZImageService, uid: str) -> None:
        """Make up a password and create the chain; each link needs the uid of the one before."""
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        salt = bcrypt.gensalt(BCRYPT_ROUNDS)
        hashed = await asyncio.to_thread(bcrypt.hashpw, password.encode(), salt)
        htpasswd = f"{GENERATED_USER}:{hashed.decode()}\n"
        digest = hashlib.sha256(htpasswd.encode()).hexdigest()
        basic = await self.cluster.create(basic_secret(service, uid, htpasswd))
        shown = await self.cluster.create(password_secret(service, basic, password))
        await self.cluster.create(receipt(service, shown, uid, digest))


def blank(service: ZImageService, uid: str) -> list[Manifest]:
    """Build the three objects below the issue with nothing in them, to ask whether their names are free."""
    return [basic_secret(service, uid, ""), password_secret(service, uid, ""), receipt(service, uid, uid, "")]


def stopped(item: Manifest) -> Manifest:
    """Give a Deployment without workers; anything else as it is."""
    return {**item, "spec": {**item["spec"], "replicas": 0}} if item["kind"] == "Deployment" else item


def waiting(service: ZImageService, item: Manifest) -> Issuing:
    """Say that the old pair is being cleared away."""
    name = item["metadata"]["name"]
    text = f"new credentials are made as soon as the old {item['kind']} {name} is cleared away"
    return Issuing(item["kind"], name, text)


def foreign(item: Manifest) -> NotOwned:
    """Say that the name is taken, without having looked at what took it."""
    kind, name, place = item["kind"], item["metadata"]["name"], item["metadata"]["namespace"]
    text = (
        f"{kind} {name} exists and was not made by the operator, so no worker runs with it: delete it "
        f"(kubectl -n {place} delete {kind.lower()} {name}), or write auth.basic.secretName: {name}"
    )
    return NotOwned(kind, name, text)
