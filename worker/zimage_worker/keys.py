"""A JSON key set to keys, pure: what may sign a token, and by which algorithms. RFC 7517, read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .problems import Problem, shown

# Issuers keep two or three; more is no key set.
KEYS_MAX = 64
RSA_MIN_BITS = 2048
# A check costs with the square: 16,384 bits take milliseconds each.
RSA_MAX_BITS = 8192
# RFC 7518, 3.2: as long as the hash.
HMAC_MIN_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = (*RSA_ALGORITHMS, *CURVES, "EdDSA", *HMAC_MIN_BYTES)


@dataclass(frozen=True)
class Key:
    """One key. Its algorithms are fixed here, not by the token, and are all of its own type."""

    kid: str
    algorithms: tuple[str, ...]
    # What PyJWT verifies with; kept out of every repr.
    material: Any = field(repr=False)


@dataclass(frozen=True)
class KeySet:
    """One read of a source: keys by kid, or problems and no keys at all."""

    keys: Mapping[str, Key]
    problems: tuple[Problem, ...] = ()

    def find(self, kid: str | None) -> Key | None:
        """The key of that name; a token without one is taken for the only key there is."""
        if kid is None:
            return next(iter(self.keys.values())) if len(self.keys) == 1 else None
        return self.keys.get(kid)


class Unusable(Exception):
    """Why a member of the set refuses the whole set. Holds nothing of the key."""


def strict_object(text: bytes) -> dict[str, Any]:
    """A JSON object in which every name stands once and every number is one.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may pick different ones of two equal names: there is no right one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def no_constant(_name: str) -> Any:
    """Python's reader takes NaN and Infinity, which JSON does not have."""
    raise ValueError("not a JSON number")


def parse_jwks(content: bytes | None, allowed: Sequence[str], where: str) -> KeySet:
    """All keys for the allowed algorithms, or none: one weak or damaged key refuses the whole set."""
    if content is None:
        message = f"no key set at {where}: the Secret or ConfigMap, or its key, is missing"
        return KeySet({}, (Problem("SecretMissing", message),))
    try:
        members = strict_object(content)["keys"]
    except (ValueError, KeyError):
        return malformed(f'{where} is no JSON key set: write {{"keys": [...]}} with the public keys of the issuer')
    if not isinstance(members, list) or len(members) > KEYS_MAX or not all(isinstance(each, dict) for each in members):
        return malformed(f'{where}: "keys" must be a list of at most {KEYS_MAX} keys')
    try:
        found = [key for member in members if (key := parse_key(member, allowed))]
    except Unusable as error:
        return malformed(f"{where}: {error}")
    named = {key.kid: key for key in found}
    if not found:
        return malformed(f"{where} holds no key for {', '.join(allowed)}; see ZIMAGE_JWT_ALGORITHMS")
    if len(named) < len(found) or ("" in named and len(named) > 1):
        return malformed(f"{where}: give every key a kid of its own")
    return KeySet(named)


def malformed(message: str) -> KeySet:
    """No keys, and why."""
    return KeySet({}, (Problem("SecretMalformed", message),))


def parse_key(member: Mapping[str, Any], allowed: Sequence[str]) -> Key | None:
    """One key; None for what an issuer publishes for other purposes (encryption, other algorithms).

    Raises:
        Unusable: it is meant for us and is damaged, weak or private.
    """
    kid = member.get("kid", "")
    if not isinstance(kid, str) or len(kid) > 256:
        raise Unusable("a kid must be a text of at most 256 characters")
    named = f"key {shown(kid) or '(without kid)'}"
    if "d" in member:
        raise Unusable(f"{named} is a private key; publish only its public part, and replace it")
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list):
        raise Unusable(f"{named} has key_ops that are no list")
    if member.get("use", "sig") != "sig" or "verify" not in operations:
        return None
    fitting = [name for name in allowed if fits(member, name)]
    if not fitting:
        return None
    try:
        material = jwt.PyJWK(dict(member), fitting[0]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        # The library's text quotes the key.
        raise Unusable(f"{named} is damaged") from None
    if why := WEAKNESSES[str(member["kty"])](material, fitting):
        raise Unusable(f"{named} {why}")
    return Key(kid, tuple(fitting), material)


def fits(member: Mapping[str, Any], algorithm: str) -> bool:
    """Whether this key may be used with the algorithm: its own `alg` decides, or else its type."""
    if member.get("alg", algorithm) != algorithm:
        return False
    kind, curve = member.get("kty"), member.get("crv")
    if kind == "EC":
        return {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}.get(str(curve)) == algorithm
    if kind == "OKP":
        return curve == "Ed25519" and algorithm == "EdDSA"
    return algorithm in {"RSA": RSA_ALGORITHMS, "oct": tuple(HMAC_MIN_BYTES)}.get(str(kind), ())


def rsa_weakness(material: Any, _algorithms: Sequence[str]) -> str | None:
    """RFC 7518, 3.3: 2048 bits or more."""
    if not isinstance(material, rsa.RSAPublicKey):
        return "is no RSA key"
    if RSA_MIN_BITS <= material.key_size <= RSA_MAX_BITS:
        return None
    return f"has {material.key_size} bits; use {RSA_MIN_BITS} to {RSA_MAX_BITS}"


def ec_weakness(material: Any, algorithms: Sequence[str]) -> str | None:
    """The curve belongs to the algorithm."""
    same = isinstance(material, ec.EllipticCurvePublicKey) and material.curve.name == CURVES[algorithms[0]]
    return None if same else "is on another curve than its algorithm"


def okp_weakness(material: Any, _algorithms: Sequence[str]) -> str | None:
    """Nothing but Ed25519."""
    return None if isinstance(material, Ed25519PublicKey) else "is no Ed25519 key"


def hmac_weakness(material: Any, algorithms: Sequence[str]) -> str | None:
    """A shorter key is guessed from one token, offline."""
    needed = max(HMAC_MIN_BYTES[name] for name in algorithms)
    return None if len(material) >= needed else f"has {len(material)} bytes; use {needed} or more random ones"


WEAKNESSES: Mapping[str, Callable[[Any, Sequence[str]], str | None]] = {
    "RSA": rsa_weakness,
    "EC": ec_weakness,
    "OKP": okp_weakness,
    "oct": hmac_weakness,
}
