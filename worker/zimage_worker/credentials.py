"""Signing in: limits before hashing, hashing in a small pool, a short memory of what was right."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from .addresses import bucket
from .admission import RateLimit
from .auth import Basic, Caller, check, parse_basic
from .errors import RateLimited, Unauthenticated
from .files import SecretFiles
from .metrics import Metrics

# A password that was right a minute ago is right without hashing again. The key holds the hash,
# so a changed file ends it at once.
REMEMBERED_SECONDS = 60.0
REMEMBERED_MAX = 1024
# A hash costs 50 to 150 ms of a core: ten failures a minute and address slow nobody down who
# mistypes, and stop a guesser. A guess.
FAILURES_PER_MINUTE = 10.0
FAILURES_BURST = 20
# All guessers of one user together, so that many addresses do not help; wide, or they could lock her out.
USER_FAILURES_PER_MINUTE = 60.0
USER_FAILURES_BURST = 200
# More would take the processor from the model.
HASHING_THREADS = 2


class Gate:
    """Headers to a caller, or the same refusal for every reason."""

    def __init__(self, files: SecretFiles, required: bool, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.files = files
        self.required = required
        self.metrics = metrics
        self.clock = clock
        self.key = secrets.token_bytes(32)
        self.right: OrderedDict[bytes, float] = OrderedDict()
        self.failures = RateLimit(FAILURES_PER_MINUTE, FAILURES_BURST, clock)
        self.user_failures = RateLimit(USER_FAILURES_PER_MINUTE, USER_FAILURES_BURST, clock)
        self.pool = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="hash")

    async def caller(self, authorization: list[str], address: str) -> Caller:
        """Who this is.

        Raises:
            Unauthenticated: no credentials, or wrong ones.
            RateLimited: too many wrong ones, before any hashing.
        """
        if not self.required:
            return Caller("", address)
        basic = parse_basic(authorization)
        users = self.files.found.htpasswd.users
        if basic is None or not users:
            self.refuse("missing" if not authorization else "malformed" if users else "no_users")
        key = self.remembered_key(basic, users.get(basic.user, ""))
        if self.right.get(key, 0.0) <= self.clock():
            await self.hash(basic, address)
            self.remember(key)
        return Caller(basic.user, address)

    def refuse(self, reason: str) -> NoReturn:
        """Count the reason; the client does not learn it."""
        self.metrics.auth_failures.labels(reason).inc()
        raise Unauthenticated

    async def hash(self, basic: Basic, address: str) -> None:
        """The slow check. Tokens are taken before and given back, or parallel guesses would slip through."""
        limits = ((self.failures, bucket(address)), (self.user_failures, basic.user))
        for number, (limit, key) in enumerate(limits):
            try:
                limit.take(key)
            except RateLimited:
                for earlier, its_key in limits[:number]:
                    earlier.give_back(its_key)
                self.metrics.rate_limited.labels("auth_failures").inc()
                raise
        users = self.files.found.htpasswd.users
        if not await asyncio.get_running_loop().run_in_executor(self.pool, check, basic, users):
            self.refuse("wrong")
        for limit, key in limits:
            limit.give_back(key)

    def remembered_key(self, basic: Basic, hashed: str) -> bytes:
        """Says nothing about the password to whoever reads the memory later."""
        text = "\0".join((basic.user, basic.password, hashed))
        return hmac.digest(self.key, text.encode("utf-8", "surrogatepass"), "sha256")

    def remember(self, key: bytes) -> None:
        """For a minute, and not too many."""
        self.right[key] = self.clock() + REMEMBERED_SECONDS
        self.right.move_to_end(key)
        while len(self.right) > REMEMBERED_MAX:
            self.right.popitem(last=False)
