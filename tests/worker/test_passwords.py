"""Many sign in at once: who is hashed, who is refused, and whom nobody can lock out."""

from __future__ import annotations

import asyncio
import threading

import bcrypt
import pytest

from zimage_worker import passwords
from zimage_worker.auth import Basic, check, stand_in
from zimage_worker.errors import RateLimited
from zimage_worker.metrics import Metrics
from zimage_worker.passwords import Passwords

USERS = {name: bcrypt.hashpw(f"right-{name}".encode(), bcrypt.gensalt(4)).decode() for name in ("alice", "bob")}
HERE, THERE = "192.0.2.1", "198.51.100.1"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were hashed, as they were."""
    seen: list[str] = []
    lock = threading.Lock()

    def counted(basic, users) -> bool:
        with lock:
            seen.append(basic.user)
        return check(basic, users)

    monkeypatch.setattr(passwords, "check", counted)
    return seen


@pytest.fixture
def asked(clock: Clock):
    made = Passwords(Metrics(), clock)

    async def ask(user: str, password: str = "", address: str = HERE, users=USERS) -> bool | int:
        """Right, wrong, or 429."""
        try:
            return await made.right(Basic(user, password or f"right-{user}"), users, address)
        except RateLimited as error:
            return 429 if error.retry_after_seconds else 0

    ask.made = made  # type: ignore[attr-defined]
    return ask


async def test_equal_right_passwords_are_hashed_once_and_all_get_in(asked, hashes) -> None:
    assert await asyncio.gather(*(asked("alice") for _ in range(300))) == [True] * 300
    assert hashes == ["alice"]
    assert await asked("alice")
    assert hashes == ["alice"]


async def test_parallel_guesses_get_no_more_than_the_limit(asked, hashes) -> None:
    found = await asyncio.gather(*(asked("alice", f"guess-{number}") for number in range(300)))
    assert found.count(False) == len(hashes) == passwords.GUESSES_BURST
    assert found.count(429) == 300 - passwords.GUESSES_BURST


async def test_a_guesser_without_tokens_does_not_learn_that_a_guess_is_right(asked, hashes) -> None:
    """The memory of a right password must not be a way around the limit."""
    assert await asked("alice", address=THERE)
    for number in range(passwords.GUESSES_BURST):
        assert not await asked("alice", f"guess-{number}")
    assert await asked("alice") == 429
    assert await asked("alice", address=THERE) is True


async def test_the_owner_stays_while_somebody_at_his_address_guesses_and_no_guess_is_free(asked, hashes) -> None:
    assert await asked("alice")
    for number in range(150):
        await asked("alice", f"guess-{number}")
    assert len(hashes) == 1 + passwords.GUESSES_BURST
    assert [await asked("alice") for _ in range(300)] == [True] * 300
    assert await asked("alice", "guess-0") == 429
    for number in range(150, 250):
        await asked("alice", f"guess-{number}")
    assert await asked("alice") == 429


async def test_guesses_at_others_lock_nobody_out_who_was_here_before(asked, clock: Clock, hashes) -> None:
    """One proxy address for all: the guesser's and alice's."""
    assert await asked("alice")
    for number in range(400):
        await asked(f"name-{number}", "x")
    assert await asked("name-new", "x") == 429
    clock.now += 100
    for number in range(400):
        await asked(f"name-{number}", "y")
    assert hashes.count("alice") == 1
    assert await asked("alice") is True
    assert hashes.count("alice") == 2


async def test_guesses_from_elsewhere_do_not_lock_the_owner_out(asked, clock: Clock) -> None:
    assert await asked("alice")
    for number in range(400):
        await asked("alice", f"guess-{number}", f"203.0.113.{number % 250}")
    assert await asked("alice", "guess", "203.0.113.251") == 429
    clock.now += 100
    assert await asked("alice") is True


async def test_an_old_script_with_one_wrong_password_takes_nothing_from_the_owner(asked, clock: Clock, hashes) -> None:
    found = [await asked("alice", "old") for _ in range(100)]
    assert found.count(False) == 1 + passwords.REPEATS_BURST
    assert found[-1] == 429
    assert await asked("alice") is True
    assert hashes == ["alice", "alice"]


async def test_tokens_come_back_with_time(asked, clock: Clock) -> None:
    for number in range(100):
        await asked("alice", f"guess-{number}")
    assert await asked("alice") == 429
    clock.now += 7
    assert await asked("alice") is True


async def test_a_right_password_costs_nothing(asked, clock: Clock) -> None:
    for _ in range(100):
        clock.now += passwords.REMEMBERED_SECONDS + 1
        assert await asked("alice") is True
    assert not asked.made.hashing
    assert asked.made.pairs.level(f"{HERE} alice") == passwords.GUESSES_BURST


async def test_a_changed_hash_ends_the_memory_at_once(asked, hashes) -> None:
    assert await asked("alice")
    other = {**USERS, "alice": bcrypt.hashpw(b"new", bcrypt.gensalt(4)).decode()}
    assert not await asked("alice", users=other)
    assert await asked("alice", "new", users=other)
    assert not await asked("alice", users={"bob": USERS["bob"]})


async def test_whoever_leaves_has_still_guessed(asked, hashes) -> None:
    for number in range(passwords.GUESSES_BURST):
        task = asyncio.create_task(asked("alice", f"guess-{number}"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asked("alice", "guess") == 429


async def test_one_who_leaves_takes_nobody_s_answer_along(asked) -> None:
    first = asyncio.create_task(asked("alice"))
    await asyncio.sleep(0)
    second = asyncio.create_task(asked("alice"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is True


async def test_a_crowd_of_strangers_waits_no_longer_than_the_bound(asked, monkeypatch) -> None:
    assert await asked("alice", address=THERE)
    release = threading.Event()
    monkeypatch.setattr(passwords, "check", lambda _basic, _users: release.wait(20) and False)
    crowd = [asyncio.create_task(asked(f"n{n}", "x", f"10.0.{n % 250}.{n // 250}")) for n in range(300)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    monkeypatch.undo()
    assert await asyncio.wait_for(asked("bob", address="192.0.2.7"), 5) == 429
    asked.made.known_right.until.clear()
    known = asyncio.create_task(asked("alice", address=THERE))
    await asyncio.sleep(0)
    release.set()
    assert await known is True
    assert (await asyncio.gather(*crowd)).count(429) == 300 - passwords.HASHES_MAX


def test_a_stranger_costs_what_one_and_the_same_user_costs() -> None:
    """With hashes of different cost in the file, a fixed stand-in would tell who exists."""
    users = {f"user-{number}": f"$2b${4 + number % 3:02d}$" for number in range(30)}
    for name in ("mallory", "root", "ALICE", "ü" * 100, "\ud800"):
        assert stand_in(name, users) == stand_in(name, dict(users))
    strangers = [stand_in(f"stranger-{number}", users) for number in range(600)]
    for cost in ("$2b$04$", "$2b$05$", "$2b$06$"):
        assert strangers.count(cost) > 100
