"""Keys to callers, pure: htpasswd in, users out; a header in, a name and a password out.

The clock, the files, the cache and the limits are in credentials.py.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

import argon2
import bcrypt

from .problems import Problem, shown

# bcrypt reads no more; longer passwords never match, so that no two of them are the same.
BCRYPT_MAX_BYTES = 72
# 2^16 rounds take some 10 s; whoever writes more has locked himself out.
BCRYPT_MAX_COST = 16
BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
# Asked for when the file has no user: the answer takes as long as with one. Cost 10, of a random password.
DUMMY = "$2b$10$zN2N8w9qa5anelhaM2NGBuCMnkVNQu0SB3hI4xqNeZSQx.RzCdo8S"
# 4 MB of credentials is an attack; names and passwords end long before.
HEADER_MAX_CHARACTERS = 4096
# Names are remembered by the limits: long ones would be a way to fill the memory.
USER_MAX_CHARACTERS = 256


@dataclass(frozen=True)
class Caller:
    """Who asks. `user` is empty where authentication is off."""

    user: str
    address: str


@dataclass(frozen=True)
class Htpasswd:
    """One read of the file: users, or problems and no users at all."""

    users: Mapping[str, str]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Basic:
    """What an Authorization header claims."""

    user: str
    password: str


def weakness(hashed: str) -> str | None:
    """What is wrong with a hash, without showing it."""
    if hashed.startswith("$2"):
        match = BCRYPT.fullmatch(hashed)
        if not match:
            return "this bcrypt hash is damaged"
        return None if 4 <= int(match[1]) <= BCRYPT_MAX_COST else f"a bcrypt cost of {match[1]} is not usable"
    if hashed.startswith("$argon2"):
        try:
            argon2.extract_parameters(hashed)
        except argon2.exceptions.InvalidHashError:
            return "this argon2 hash is damaged"
        return None
    return f"{scheme(hashed)} is too weak"


def scheme(hashed: str) -> str:
    """The name of a hash that is not accepted."""
    named = {
        "$apr1$": "apr1 (MD5)", "$1$": "MD5-crypt", "$5$": "SHA-256-crypt", "$6$": "SHA-512-crypt",
        "{SHA}": "SHA-1", "{SSHA}": "salted SHA-1", "{PLAIN}": "plain text",
    }  # fmt: skip
    for start, name in named.items():
        if hashed.startswith(start):
            return name
    return "crypt or plain text"


def parse_htpasswd(content: bytes) -> Htpasswd:
    """All users, or none: one weak or damaged line refuses the whole file."""
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return Htpasswd({}, (Problem("SecretMalformed", "the htpasswd file is not UTF-8 text"),))
    users: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, hashed = line.strip().partition(":")
        if not colon or not user or not user.isprintable():
            # Never shown: the line may be a password.
            problems.append(f"line {number}: it is not NAME:HASH; write it with: htpasswd -B -C 10 FILE NAME")
        elif user in users:
            problems.append(f"user {shown(user)}: written twice; remove one of the lines")
        elif why := weakness(hashed):
            problems.append(f"user {shown(user)}: {why}; write it again with: htpasswd -B -C 10 FILE {shown(user)}")
        users[user] = hashed
    if not users and not problems:
        problems.append("the htpasswd file names no user; add one with: htpasswd -B -C 10 FILE NAME")
    if problems:
        return Htpasswd({}, tuple(Problem("SecretMalformed", message) for message in problems))
    return Htpasswd(users)


def parse_basic(headers: list[str]) -> Basic | None:
    """The credentials of exactly one Basic header; anything else is none."""
    if len(headers) != 1 or len(headers[0]) > HEADER_MAX_CHARACTERS:
        return None
    kind, _, token = headers[0].strip().partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(token.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return None
    return Basic(user, password) if colon and 0 < len(user) <= USER_MAX_CHARACTERS else None


def matches(password: str, hashed: str) -> bool:
    """Whether the password belongs to the hash. Slow by design: never on the event loop."""
    secret = password.encode()
    if hashed.startswith("$argon2"):
        try:
            return argon2.PasswordHasher().verify(hashed, secret)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    fits = len(secret) <= BCRYPT_MAX_BYTES and b"\x00" not in secret
    try:
        # Hashed in any case: a refusal takes as long as a check.
        same = bcrypt.checkpw(secret.replace(b"\x00", b"")[:BCRYPT_MAX_BYTES], hashed.encode())
    except ValueError:
        return False
    return same and fits


def check(basic: Basic, users: Mapping[str, str]) -> bool:
    """Whether the user exists with this password; a stranger costs as much time as a friend."""
    known = users.get(basic.user)
    if known is not None:
        return matches(basic.password, known)
    matches(basic.password, stand_in(basic.user, users))
    return False


def stand_in(stranger: str, users: Mapping[str, str]) -> str:
    """Whose hash a stranger is held against: always the same user's, so that he costs what that user costs.

    Hashes of one file may differ in cost. Were all strangers held against one of them, everybody
    who costs anything else would be known to exist. The choice is keyed with the hashes themselves:
    nobody outside can tell it, and every replica makes the same.
    """
    if not users:
        return DUMMY
    hashes = list(users.values())
    digest = hmac.digest("\n".join(hashes).encode(), stranger.encode("utf-8", "surrogatepass"), "sha256")
    return hashes[int.from_bytes(digest) % len(hashes)]


def presented(headers: list[str]) -> tuple[str, str]:
    """The scheme of the one Authorization header, in lower case, and what follows it."""
    if len(headers) != 1:
        return "", ""
    kind, _, value = headers[0].strip(" \t").partition(" ")
    return kind.lower(), value.lstrip(" ")
