"""What a check of credentials costs the event loop: `python tests/bench/bench_auth.py` prints a table."""

from __future__ import annotations

import asyncio
import base64
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import argon2
import bcrypt
import jwt

from zimage_worker import settings
from zimage_worker.auth import Basic, matches
from zimage_worker.credentials import Gate
from zimage_worker.files import SecretFiles
from zimage_worker.metrics import Metrics

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from issuer import AUDIENCE, ISSUER, Issuer

ROUNDS, CHECKS = 15, 200
# The issue's goals, in milliseconds.
BASIC_GOAL_MS, JWT_GOAL_MS = 0.1, 0.5
PASSWORD = "a password of the bench"


def gate(folder: Path, issuer: Issuer) -> Gate:
    """A gate of mode Any, as the process makes it."""
    (folder / "auth").write_text(f"alice:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()}\n")
    (folder / "jwks").write_bytes(issuer.jwks())
    (folder / "key").write_text("bench-signing-key-0123456789abcdefgh")
    chosen = settings.parse({
        "ZIMAGE_MODEL_PATH": "/nowhere", "ZIMAGE_ALLOWED_HOSTS": "*", "ZIMAGE_AUTH_MODE": "Any",
        "ZIMAGE_BASIC_FILE": f"{folder}/auth", "ZIMAGE_JWT_ISSUER": ISSUER, "ZIMAGE_JWT_AUDIENCES": AUDIENCE,
        "ZIMAGE_JWT_JWKS_FILE": f"{folder}/jwks", "ZIMAGE_TOKEN_SIGNING_KEY_FILE": f"{folder}/key",
    })  # fmt: skip

    async def newer() -> bool:
        return False

    return Gate(chosen.auth, SecretFiles(chosen), newer, Metrics(), time.monotonic, time.time)


async def milliseconds(check: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Median and worst of the rounds' means, in milliseconds a check."""
    means = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CHECKS):
            await check()
        means.append((time.perf_counter() - began) / CHECKS * 1000)
    return statistics.median(means), max(means)


def bare(token: str, issuer: Issuer, kid: str) -> Callable[[], Awaitable[object]]:
    """PyJWT alone, for comparison within the run."""
    key, algorithm = issuer.private[kid].public_key(), issuer.algorithms[kid]

    async def check() -> object:
        return jwt.decode(token, key, algorithms=[algorithm], audience=AUDIENCE, issuer=ISSUER)

    return check


async def rows(found: Gate, issuer: Issuer) -> list[tuple[str, float, float, float | None]]:
    """Name, median, worst round and goal; all in milliseconds."""
    made = []

    async def add(name: str, header: str, goal_ms: float | None) -> None:
        await found.caller([header], "192.0.2.1")
        made.append((name, *await milliseconds(lambda: found.caller([header], "192.0.2.1")), goal_ms))

    header = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
    await add("Basic, remembered", header, BASIC_GOAL_MS)
    for kid, algorithm in issuer.algorithms.items():
        token = issuer.token(kid)
        await add(f"JWT {algorithm}", f"Bearer {token}", JWT_GOAL_MS)
        made.append((f"  PyJWT alone, {algorithm}", *await milliseconds(bare(token, issuer, kid)), None))
    token_settings = found.auth.token
    assert token_settings
    own = await found.token(Basic("alice", PASSWORD), "192.0.2.1", token_settings)
    await add("token of POST /token (HS256)", f"Bearer {own}", JWT_GOAL_MS)
    return made


def hash_rows() -> list[tuple[str, float, float, float | None]]:
    """What a password costs that is not remembered: in a thread, never on the loop."""
    hashed = {f"bcrypt, cost {cost}": bcrypt.hashpw(b"x", bcrypt.gensalt(cost)).decode() for cost in (10, 12)}
    hashed["argon2id, 19 MiB, t=2, p=1"] = argon2.PasswordHasher(2, 19 * 1024, 1).hash("x")
    made: list[tuple[str, float, float, float | None]] = []
    for name, value in hashed.items():
        times = []
        for _ in range(5):
            began = time.perf_counter()
            matches("y", value)
            times.append((time.perf_counter() - began) * 1000)
        made.append((f"a hash: {name}", statistics.median(times), max(times), None))
    return made


def main() -> int:
    """Print the table; exit code 1 where a goal is missed."""
    issuer = Issuer()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(rows(gate(Path(folder), issuer), issuer)) + hash_rows()
    print("| check | median ms | worst round ms | goal ms |\n|---|---|---|---|")
    for name, median, worst, goal in found:
        print(f"| {name} | {median:.3f} | {worst:.3f} | {goal or ''} |")
    return int(any(goal is not None and median > goal for _, median, _, goal in found))


if __name__ == "__main__":
    sys.exit(main())
