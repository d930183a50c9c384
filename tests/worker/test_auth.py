from __future__ import annotations

import base64

import argon2
import bcrypt
import pytest

from zimage_worker.auth import check, matches, parse_basic, parse_htpasswd

CHEAP = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_bcrypt_in_all_its_spellings(prefix: str) -> None:
    users = parse_htpasswd(f"# people\n\nalice:{prefix}{CHEAP[4:]}\n".encode()).users
    assert list(users) == ["alice"]
    assert matches("right", users["alice"])
    assert not matches("wrong", users["alice"])


def test_argon2() -> None:
    hashed = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("right")
    users = parse_htpasswd(f"alice:{hashed}".encode()).users
    assert matches("right", users["alice"])
    assert not matches("wrong", users["alice"])


@pytest.mark.parametrize(
    ("hashed", "says"),
    [
        ("$apr1$x$y", "apr1 (MD5) is too weak; write it again with: htpasswd -B -C 10 FILE bob"),
        ("{SHA}abc", "SHA-1 is too weak"),
        ("$6$salt$hash", "SHA-512-crypt is too weak"),
        ("plain-canary", "crypt or plain text is too weak"),
        ("$2y$10$short", "damaged"),
        ("$2y$31$" + CHEAP[7:], "cost of 31"),
        ("$argon2id$canary", "damaged"),
    ],
    # The salt of CHEAP is new in each process, and a test that failed must be found again by its name.
    ids=lambda value: value[:7],
)
def test_one_weak_line_refuses_the_file_and_never_shows_a_hash(hashed: str, says: str) -> None:
    read = parse_htpasswd(f"alice:{CHEAP}\nbob:{hashed}\n".encode())
    assert not read.users
    (problem,) = read.problems
    assert problem.reason == "SecretMalformed"
    assert problem.message.startswith("user bob: ")
    assert says in problem.message
    assert hashed not in problem.message


@pytest.mark.parametrize("content", [b"", b"\n# nobody\n", b"\xff\xfe", b"no-colon-canary", b":hash", b"a:x\na:x"])
def test_damaged_files_let_nobody_in(content: bytes) -> None:
    read = parse_htpasswd(content)
    assert not read.users
    assert read.problems
    assert "canary" not in str(read.problems)


@pytest.mark.parametrize("password", ["x" * 73, "x" * 10_000, "right\0", "\0", "", "ß" * 40])
def test_strange_passwords_are_wrong_and_crash_nothing(password: str) -> None:
    assert not matches(password, CHEAP)


def test_longer_than_bcrypt_reads_never_matches() -> None:
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert matches("x" * 72, hashed)
    assert not matches("x" * 73, hashed)


def test_strangers_are_checked_against_somebody_s_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("zimage_worker.auth.matches", lambda _password, hashed: seen.append(hashed) or True)
    found = parse_basic([basic("mallory:right")])
    assert found
    assert not check(found, {"alice": CHEAP})
    assert seen == [CHEAP]


def test_a_header_becomes_a_name_and_a_password() -> None:
    found = parse_basic([basic("alice:a:b ü")])
    assert found
    assert (found.user, found.password) == ("alice", "a:b ü")


@pytest.mark.parametrize(
    "headers",
    [
        [], [""], ["Basic"], ["Basic !!!"], ["Bearer abc"], [basic("nocolon")], [basic(":nouser")], [basic(b"\xff:x")],
        [basic("a:b"), basic("a:b")], ["Basic " + "A" * 5000],
    ],
)  # fmt: skip
def test_anything_else_is_no_credential(headers: list[str]) -> None:
    assert parse_basic(headers) is None
