"""The tokens that POST /token gives, pure: signed with the file's keys, and bound to the user's password.

Each line of the file is a key. The first signs, all verify: a key is changed without a failed request
by adding it below, then moving it to the top, then removing the old one once its tokens have expired.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import jwt

from .keys import Key, KeySet
from .problems import Problem, Reason
from .tokens import Policy, TokenRefused, verify

ISSUER = "zimage-worker"
POLICY = Policy(ISSUER, (ISSUER,))
ALGORITHM = "HS256"
KEY_MIN_BYTES = 32
# No random key has fewer: 32 hexadecimal digits have some 14 different ones.
DIFFERENT_MIN = 8
KEYS_MAX = 4


def parse_signing_keys(content: bytes | None, where: str) -> KeySet:
    """The keys, the signing one first; or why there are none."""
    if content is None:
        return refused("SecretMissing", f"no signing key at {where}: the Secret or its key is missing")
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    write = "write one key a line, for example from: openssl rand -base64 48"
    if not lines or len(lines) > KEYS_MAX or not content.isascii():
        return refused("SecretMalformed", f"{where} must hold 1 to {KEYS_MAX} lines of plain text; {write}")
    if any(len(line) < KEY_MIN_BYTES or len(set(line)) < DIFFERENT_MIN for line in lines):
        return refused("SecretMalformed", f"{where} holds a key shorter than {KEY_MIN_BYTES} random bytes; {write}")
    keys = [Key(key_id(line), (ALGORITHM,), line) for line in lines]
    return KeySet({key.kid: key for key in keys})


def refused(reason: Reason, message: str) -> KeySet:
    """No keys, and why."""
    return KeySet({}, (Problem(reason, message),))


def key_id(secret: bytes) -> str:
    """Names a key without giving it away; the prefix keeps it apart from any issuer's."""
    return "zimage-" + hmac.digest(secret, b"zimage kid", "sha256").hex()[:16]


def credential(key: Key, user: str, hashed: str) -> str:
    """Ties a token to one entry of the htpasswd file: with the entry it ends, wherever the token was made."""
    return hmac.new(key.material, f"zimage credential\0{user}\0{hashed}".encode(), hashlib.sha256).hexdigest()[:32]


def mint(user: str, hashed: str, keys: KeySet, now: int, lifetime_seconds: int, token_id: str) -> str:
    """A token for a user whose password was right now (seconds since 1970)."""
    key = next(iter(keys.keys.values()))
    claims = {
        "iss": ISSUER, "aud": ISSUER, "sub": user, "iat": now, "exp": now + lifetime_seconds,
        "jti": token_id, "cred": credential(key, user, hashed),
    }  # fmt: skip
    return jwt.encode(claims, key.material, ALGORITHM, headers={"kid": key.kid})


def verify_own(token: str, key: Key, users: Mapping[str, str], now: float) -> str:
    """The user, while the entry that the token was given for still stands.

    Raises:
        TokenRefused: as tokens.verify, or the user has gone or has another password.
    """
    claims = verify(token, KeySet({key.kid: key}), POLICY, now)
    user, bound = claims["sub"], claims.get("cred")
    if user not in users or not isinstance(bound, str) or not bound.isascii():
        raise TokenRefused("token_user")
    if not hmac.compare_digest(bound, credential(key, user, users[user])):
        raise TokenRefused("token_user")
    return str(user)
