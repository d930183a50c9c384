"""A signed token to its claims, pure: RFC 8725's advice as one short list of refusals.

PyJWT checks the signature, the issuer and the audience. The rest is checked here, because PyJWT
takes `exp` as a text, an `exp` of 10^18, two members of one name, and its own clock.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

from .keys import Key, KeySet, strict_object

TOKEN_MAX_CHARACTERS = 8192
# Clocks of issuer and worker differ by seconds where they are kept at all.
LEEWAY_SECONDS = 30
# Longer-lived tokens are passwords that nobody can change.
LIFETIME_MAX_SECONDS = 366 * 24 * 3600
USER_MAX_CHARACTERS = 256
# header.payload.signature, without padding, blanks or anything else; five parts are an encrypted token.
COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# Keys are only ever looked up in our own set, and nothing else may change how a token is read.
FORBIDDEN_HEADERS = {"jku", "x5u", "jwk", "x5c", "crit", "b64", "cty", "zip", "enc", "epk", "p2s", "p2c"}
TYPES = {"jwt", "at+jwt", "application/jwt", "application/at+jwt"}

Reason = Literal[
    "token_malformed", "token_header", "token_key", "token_signature", "token_issuer", "token_audience",
    "token_expired", "token_not_yet", "token_claims", "token_user",
]  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """What a token must say, beside being signed by one of the keys."""

    issuer: str
    audiences: tuple[str, ...]
    username_claim: str = "sub"
    # Names with the value they must have or contain; None: any.
    required: tuple[tuple[str, str | None], ...] = ()


class TokenRefused(Exception):
    """Why, for the metrics; the client does not learn it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class UnknownKey(TokenRefused):
    """Perhaps a newer key set knows it."""

    def __init__(self) -> None:
        super().__init__("token_key")


def parse_header(token: str) -> dict[str, Any]:
    """The header of a token that looks like one; nothing of it is proved.

    Raises:
        TokenRefused: it cannot be a token for us.
    """
    if len(token) > TOKEN_MAX_CHARACTERS or not COMPACT.fullmatch(token):
        raise TokenRefused("token_malformed")
    header = segment(token, 0)
    kid, kind = header.get("kid"), header.get("typ", "JWT")
    wrong = FORBIDDEN_HEADERS & header.keys() or not isinstance(header.get("alg"), str)
    if wrong or not isinstance(kid, str | None) or not isinstance(kind, str) or kind.lower() not in TYPES:
        raise TokenRefused("token_header")
    return header


def segment(token: str, number: int) -> dict[str, Any]:
    """One of the two JSON parts, read strictly."""
    text = token.split(".")[number]
    try:
        return strict_object(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        raise TokenRefused("token_malformed") from None


def verify(token: str, keys: KeySet, policy: Policy, now: float) -> dict[str, Any]:
    """The claims of a token that holds now (seconds since 1970).

    Raises:
        TokenRefused: it does not. UnknownKey: nobody here knows its key.
    """
    header = parse_header(token)
    key = keys.find(header.get("kid"))
    if key is None:
        raise UnknownKey
    if header["alg"] not in key.algorithms:
        raise TokenRefused("token_key")
    signed(token, key, policy)
    claims = segment(token, 1)
    check_times(claims, now)
    if not all(holds(claims, name, value) for name, value in policy.required):
        raise TokenRefused("token_claims")
    return claims


def signed(token: str, key: Key, policy: Policy) -> None:
    """Signature, issuer, audience and the claims that must be there, by PyJWT."""
    try:
        jwt.decode(
            token, key.material, algorithms=list(key.algorithms), issuer=policy.issuer, audience=policy.audiences,
            options={
                "require": ["iss", "aud", "exp", "sub"], "enforce_minimum_key_length": True,
                # By check_times, with a clock that is an argument.
                "verify_exp": False, "verify_nbf": False, "verify_iat": False,
            },
        )  # fmt: skip
    except jwt.InvalidIssuerError:
        raise TokenRefused("token_issuer") from None
    except jwt.InvalidAudienceError:
        raise TokenRefused("token_audience") from None
    except (jwt.MissingRequiredClaimError, InvalidSubjectError, InvalidJTIError):
        raise TokenRefused("token_claims") from None
    except (jwt.PyJWTError, ValueError, TypeError):
        raise TokenRefused("token_signature") from None


def check_times(claims: Mapping[str, Any], now: float) -> None:
    """Real numbers, and the present between them."""
    expires, not_before, issued = (seconds(claims.get(name, default)) for name, default in
                                   (("exp", None), ("nbf", 0), ("iat", 0)))  # fmt: skip
    if expires - now > LIFETIME_MAX_SECONDS:
        raise TokenRefused("token_claims")
    if now - LEEWAY_SECONDS >= expires:
        raise TokenRefused("token_expired")
    if max(not_before, issued) > now + LEEWAY_SECONDS:
        raise TokenRefused("token_not_yet")


def seconds(value: Any) -> float:
    """A NumericDate: a JSON number, neither a text nor a boolean, and of this world."""
    # Compared as it is: float() of a thousand digits raises.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise TokenRefused("token_claims")
    return float(value)


def holds(claims: Mapping[str, Any], name: str, value: str | None) -> bool:
    """Whether a required claim is there, and is or contains the value. Scopes are words in one text."""
    found = claims.get(name)
    if value is None:
        return found not in (None, "", False, [], {})
    if isinstance(found, list):
        return value in found
    if name in {"scope", "scp"} and isinstance(found, str):
        return value in found.split(" ")
    # JSON's true is written true, not True.
    return found == value or (isinstance(found, bool) and str(found).lower() == value)


def user(claims: Mapping[str, Any], claim: str) -> str:
    """The name under which the caller is known.

    Raises:
        TokenRefused: there is none that could stand in a log or a header.
    """
    name, subject = claims.get(claim), claims["sub"]
    if not subject or not isinstance(name, str) or not 0 < len(name) <= USER_MAX_CHARACTERS or not name.isprintable():
        raise TokenRefused("token_user")
    return name
