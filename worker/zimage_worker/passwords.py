"""Is this password right: limits first, one hash for equal questions, a short memory of the answers."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from .addresses import bucket
from .admission import RateLimit
from .auth import Basic, check
from .errors import RateLimited
from .metrics import Metrics

# A password that was right or wrong a minute ago still is, without hashing again. The key holds
# the hash, so a changed file ends it at once.
REMEMBERED_SECONDS = 60.0
REMEMBERED_MAX = 1024
# Guesses at one name from one address: slows nobody down who mistypes. A guess.
GUESSES_PER_MINUTE, GUESSES_BURST = 10.0, 20
# One address at many names, and many addresses at one name: wide, because others stand behind the
# same proxy, and because a guesser must not lock out whom he guesses at. A hash costs 50 to 150 ms
# of a core, so an address takes a third of one at most.
ADDRESS_GUESSES_PER_MINUTE, ADDRESS_GUESSES_BURST = 120.0, 200
USER_GUESSES_PER_MINUTE, USER_GUESSES_BURST = 60.0, 200
# The same wrong password again and again is a script with an old one, not a guesser.
REPEATS_PER_MINUTE, REPEATS_BURST = 10.0, 20
# Without tokens the remembered owner still gets in where he was right before, unless as many different
# guesses have come from his very address: they could find his password too.
EXCUSES_PER_MINUTE, EXCUSES_BURST = 60.0, 200
# Who was right here today is not held back by what others do at this address or to this name.
PROVED_SECONDS = 24 * 3600.0
PROVED_MAX = 10_000
# More would take the processor from the model.
HASHING_THREADS = 2
# So many wait for a thread: some 15 s of hashing. A guess.
HASHES_MAX = 256


class Memory:
    """Keys that are known for a while, and not too many; the oldest go first."""

    def __init__(self, seconds: float, most: int, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self.most = most
        self.clock = clock
        self.until: OrderedDict[bytes, float] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        """Whether it was added and has not ended."""
        return self.until.get(key, 0.0) > self.clock()

    def add(self, key: bytes) -> None:
        """From now on."""
        self.until[key] = self.clock() + self.seconds
        self.until.move_to_end(key)
        while len(self.until) > self.most:
            self.until.popitem(last=False)


class Passwords:
    """Answers, for all users of the worker."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.metrics = metrics
        self.secret = secrets.token_bytes(32)
        self.known_right = Memory(REMEMBERED_SECONDS, REMEMBERED_MAX, clock)
        self.known_wrong = Memory(REMEMBERED_SECONDS, REMEMBERED_MAX, clock)
        self.proved = Memory(PROVED_SECONDS, PROVED_MAX, clock)
        self.pairs = RateLimit(GUESSES_PER_MINUTE, GUESSES_BURST, clock)
        self.addresses = RateLimit(ADDRESS_GUESSES_PER_MINUTE, ADDRESS_GUESSES_BURST, clock)
        self.users = RateLimit(USER_GUESSES_PER_MINUTE, USER_GUESSES_BURST, clock)
        self.repeats = RateLimit(REPEATS_PER_MINUTE, REPEATS_BURST, clock)
        self.excuses = RateLimit(EXCUSES_PER_MINUTE, EXCUSES_BURST, clock)
        self.hashing: dict[bytes, asyncio.Task[bool]] = {}
        self.pool = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="hash")

    async def right(self, basic: Basic, users: Mapping[str, str], address: str) -> bool:
        """Whether one of the users (names to hashes) has this name and password.

        Raises:
            RateLimited: too many wrong ones, before any hashing.
        """
        key = self.digest(basic.user, basic.password, users.get(basic.user, ""))
        try:
            task = self.asked(key, basic, users, bucket(address))
        except RateLimited:
            self.metrics.rate_limited.labels("auth_failures").inc()
            raise
        # Shielded: others wait for the same answer, and a guesser who leaves has still guessed.
        return await asyncio.shield(task) if task else key in self.known_right

    def asked(self, key: bytes, basic: Basic, users: Mapping[str, str], address: str) -> asyncio.Task[bool] | None:
        """The hash that answers; None where memory does. Runs in one piece: nothing slips between."""
        proof = self.digest(basic.user, address)
        pair, proved = f"{address} {basic.user}", proof in self.proved
        limits = [(self.pairs, pair)]
        if not proved:
            limits += [(self.addresses, address), (self.users, basic.user)]
        # Before the memory: or a guesser without tokens would go on, and learn of the one right guess.
        try:
            for limit, name in limits:
                limit.ensure(name)
        except RateLimited:
            if proved and self.excused(key, pair):
                return None
            raise
        if key in self.known_right:
            return None
        if key in self.known_wrong:
            self.repeats.take(key.hex())
            return None
        if key not in self.hashing:
            if len(self.hashing) >= HASHES_MAX and not proved:
                raise RateLimited("Too many sign in at the same time; try again in 1 s.", retry_after_seconds=1)
            # Taken before and given back, or parallel guesses would slip through.
            for limit, name in limits:
                limit.take(name)
            work = self.hash(key, partial(check, basic, users))
            self.hashing[key] = asyncio.create_task(self.settled(work, proof, limits))
        return self.hashing[key]

    def excused(self, key: bytes, pair: str) -> bool:
        """Whether this is the remembered password of an owner who is guessed at; counts the guesses."""
        if self.excuses.level(pair) < 1:
            return False
        if key not in self.known_right and key not in self.known_wrong:
            self.excuses.take(pair)
        return key in self.known_right

    async def hash(self, key: bytes, work: Callable[[], bool]) -> bool:
        """The slow check, remembered for a minute."""
        try:
            right = await asyncio.get_running_loop().run_in_executor(self.pool, work)
        finally:
            del self.hashing[key]
        (self.known_right if right else self.known_wrong).add(key)
        return right

    async def settled(self, work: Awaitable[bool], proof: bytes, limits: list[tuple[RateLimit, str]]) -> bool:
        """A right answer was no guess."""
        right = await work
        if right:
            self.proved.add(proof)
            for limit, name in limits:
                limit.give_back(name)
        return right

    def digest(self, *parts: str) -> bytes:
        """Says nothing about a password to whoever reads the memory later."""
        return hmac.digest(self.secret, "\0".join(parts).encode("utf-8", "surrogatepass"), "sha256")
