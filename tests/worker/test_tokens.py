from __future__ import annotations

import base64
import contextlib
import itertools
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, RSAAlgorithm

from issuer import AUDIENCE, ISSUER, Issuer, compact, forgeries, hmac_token
from zimage_worker.keys import KeySet, parse_jwks
from zimage_worker.own_tokens import key_id, mint, parse_signing_keys, verify_own
from zimage_worker.tokens import Policy, TokenRefused, UnknownKey, parse_header, user, verify

ALLOWED = ("RS256", "ES256", "EdDSA")
POLICY = Policy(ISSUER, ("other", AUDIENCE))
ME = Issuer()
FORGERIES = forgeries(ME)
KEYS = parse_jwks(ME.jwks(), ALLOWED, "here")
SECRET = b"0123456789abcdef0123456789ABCDEF"


def read(token: str, keys: KeySet = KEYS, policy: Policy = POLICY, now: float | None = None) -> str:
    return user(verify(token, keys, policy, time.time() if now is None else now), policy.username_claim)


@pytest.mark.parametrize("kid", ["rsa", "ec", "ed"])
def test_an_honest_token(kid: str) -> None:
    assert read(ME.token(kid)) == "carla"
    assert read(ME.token(kid, aud=["x", AUDIENCE], nbf=0, jti="1")) == "carla"
    assert read(ME.token(kid, header={"typ": "at+JWT", "x5t": "thumb"})) == "carla"
    assert read(ME.token(kid, header={"typ": None})) == "carla"


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused(name: str) -> None:
    with pytest.raises(TokenRefused):
        read(FORGERIES[name])


@given(st.data())
def test_one_changed_letter_is_another_token(data: st.DataObject) -> None:
    token = GOOD
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCxyz019-_.= \t+/").filter(lambda found: found != token[place]))
    with pytest.raises(TokenRefused):
        read(token[:place] + letter + token[place + 1 :])


GOOD = ME.token("ed")


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_nonsense_is_refused_and_crashes_nothing(text: str) -> None:
    with pytest.raises(TokenRefused):
        parse_header(text)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_no_value_of_a_claim_crashes(value: Any) -> None:
    for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti", "scope"):
        with contextlib.suppress(TokenRefused):
            assert isinstance(read(ME.token("ed", **{name: value}), policy=SCOPED), str)


SCOPED = Policy(ISSUER, (AUDIENCE,), required=(("scope", "images"),))


def test_times_have_thirty_seconds_of_leeway_and_no_more() -> None:
    token = ME.token("ed", iat=1000, nbf=1000, exp=2000)
    for now in (970, 1500, 2029.9):
        assert read(token, now=now) == "carla"
    for now in (969, 2030, 3000):
        with pytest.raises(TokenRefused):
            read(token, now=now)


@pytest.mark.parametrize(
    ("required", "claims", "holds"),
    [
        (("group", None), {"group": "x"}, True),
        (("group", None), {"group": ""}, False),
        (("group", None), {}, False),
        (("group", "artists"), {"group": "artists"}, True),
        (("group", "artists"), {"group": ["a", "artists"]}, True),
        (("group", "artists"), {"group": "artists2"}, False),
        (("group", "artists"), {"group": "my artists"}, False),
        (("scope", "images"), {"scope": "openid images"}, True),
        (("scope", "images"), {"scope": "images:none"}, False),
        (("email_verified", "true"), {"email_verified": True}, True),
        (("email_verified", "true"), {"email_verified": 1}, False),
        (("level", "1"), {"level": True}, False),
    ],
)
def test_required_claims(required: tuple[str, str | None], claims: dict[str, Any], holds: bool) -> None:
    policy = Policy(ISSUER, (AUDIENCE,), required=(required,))
    if holds:
        assert read(ME.token("ed", **claims), policy=policy) == "carla"
    else:
        with pytest.raises(TokenRefused, match="token_claims"):
            read(ME.token("ed", **claims), policy=policy)


def test_the_username_claim() -> None:
    policy = Policy(ISSUER, (AUDIENCE,), "email")
    assert read(ME.token("ed", email="carla@example.org"), policy=policy) == "carla@example.org"
    with pytest.raises(TokenRefused, match="token_user"):
        read(ME.token("ed", sub="", email="carla@example.org"), policy=policy)
    for wrong in (None, "", 7, ["x"], "a\nb", "x" * 257):
        with pytest.raises(TokenRefused, match="token_user"):
            read(ME.token("ed", email=wrong), policy=policy)


def test_a_single_key_needs_no_kid_and_an_unknown_one_is_told_apart() -> None:
    one = parse_jwks(ME.jwks("ed"), ALLOWED, "here")
    assert read(ME.token("ed", header={"kid": None}), one) == "carla"
    with pytest.raises(UnknownKey):
        read(ME.token("ec"), one)
    with pytest.raises(UnknownKey):
        read(ME.token("ed", header={"kid": None}))


def test_shared_secrets_work_where_they_alone_are_allowed() -> None:
    secret = b"s" * 31 + b"t"
    keys = parse_jwks(compact({"keys": [HMACAlgorithm.to_jwk(secret, as_dict=True) | {"kid": "a"}]}), ("HS256",), "x")
    token = hmac_token({"alg": "HS256", "kid": "a"}, secret)
    assert read(token, keys) == "carla"
    with pytest.raises(TokenRefused):
        read(hmac_token({"alg": "HS256", "kid": "a"}, secret[:-1]), keys)


def with_key(**members: Any) -> bytes:
    return compact({"keys": [ME.jwk("rsa") | members]})


SHORT = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
OTHER_CURVE = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
PRIVATE = RSAAlgorithm.to_jwk(ME.private["rsa"], as_dict=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no JSON key set"), (b"[]", "no JSON key set"), (b"{}", "no JSON key set"), (b"\xff", "no JSON key set"),
        (b"-----BEGIN PUBLIC KEY-----", "no JSON key set"), (b'{"keys":[],"keys":[]}', "no JSON key set"),
        (b'{"keys":' * 3000, "no JSON key set"), (b'{"keys":{}}', "must be a list"),
        (b'{"keys":[1]}', "must be a list"),
        (b'{"keys":[]}', "holds no key for RS256, ES256"), (compact({"keys": [{}] * 65}), "at most 64"),
        (with_key(use="enc"), "holds no key"), (with_key(alg="RSA-OAEP"), "holds no key"),
        (with_key(alg="RS512"), "holds no key"), (with_key(key_ops=["encrypt"]), "holds no key"),
        (with_key(key_ops=7), "key_ops"), (with_key(n="AQAB"), "damaged"), (with_key(n="!"), "damaged"),
        (with_key(n=None), "damaged"), (with_key(n=7), "damaged"), (with_key(e="AA"), "damaged"),
        (with_key(kid=7), "kid must be"), (with_key(kid="x" * 300), "kid must be"),
        (compact({"keys": [SHORT]}), "1024 bits"), (compact({"keys": [PRIVATE]}), "private key"),
        (compact({"keys": [OTHER_CURVE | {"crv": "P-256"}]}), "damaged"),
        (compact({"keys": [ME.jwk("rsa"), ME.jwk("ec") | {"kid": "rsa"}]}), "a kid of its own"),
        (compact({"keys": [ME.jwk("rsa"), {k: v for k, v in ME.jwk("ec").items() if k != "kid"}]}), "a kid of its own"),
        (compact({"keys": [ME.jwk("ec"), ME.jwk("rsa") | {"n": SHORT["n"]}]}), "1024 bits"),
    ],
)  # fmt: skip
def test_a_damaged_or_weak_key_set_lets_nobody_in_and_says_why(content: bytes, says: str) -> None:
    found = parse_jwks(content, ALLOWED, "/etc/jwks.json")
    assert not found.keys
    (problem,) = found.problems
    assert problem.reason == "SecretMalformed"
    assert says in problem.message
    assert "/etc/jwks.json" in problem.message
    assert PRIVATE["d"][:20] not in problem.message


def test_a_short_secret_is_refused_and_a_missing_file_is_told() -> None:
    short = HMACAlgorithm.to_jwk(b"canary-short-secret", as_dict=True) | {"kid": "a"}
    (problem,) = parse_jwks(compact({"keys": [short]}), ("HS256",), "x").problems
    assert "19 bytes" in problem.message
    assert short["k"] not in problem.message
    assert parse_jwks(None, ALLOWED, "x").problems[0].reason == "SecretMissing"


def test_keys_for_other_purposes_are_passed_over() -> None:
    """Issuers publish encryption keys and algorithms that we have not heard of in the same set."""
    keys: list[dict[str, Any]] = [
        ME.jwk("rsa"), {"kty": "AKP", "kid": "pq", "alg": "ML-DSA-44"}, {"kty": "EC", "crv": "secp256k1"},
        ME.jwk("ec") | {"kid": "enc", "use": "enc"}, SHORT | {"use": "enc"}, {"kty": ["x"]}, {"kty": "oct", "k": "AA"},
    ]  # fmt: skip
    assert list(parse_jwks(compact({"keys": keys}), ALLOWED, "x").keys) == ["rsa"]


def test_no_repr_shows_a_key() -> None:
    assert "canary" not in repr(parse_signing_keys(b"canary-0123456789abcdef0123456789", "x"))


def test_our_own_tokens_live_and_die_with_the_entry() -> None:
    keys, users = parse_signing_keys(SECRET, "x"), {"alice": "hash-1", "bob": "hash-2"}
    (key,) = keys.keys.values()
    token = mint("alice", "hash-1", keys, 1000, 900, "id")
    assert parse_header(token)["kid"] == key.kid == key_id(SECRET)
    assert verify_own(token, key, users, 1500) == "alice"
    for changed in ({"bob": "hash-2"}, {"alice": "hash-3"}, {}):
        with pytest.raises(TokenRefused, match="token_user"):
            verify_own(token, key, changed, 1500)
    with pytest.raises(TokenRefused, match="token_expired"):
        verify_own(token, key, users, 1930)
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("alice", 900)
    assert "hash-1" not in str(claims)


def test_a_signing_key_is_changed_in_three_steps_without_a_failed_token() -> None:
    users, other = {"alice": "h"}, b"fedcba9876543210FEDCBA9876543210"
    steps = [SECRET, SECRET + b"\n" + other, other + b"\r\n" + SECRET + b"\n", other]
    sets = [parse_signing_keys(step, "x") for step in steps]
    for step, next_step in itertools.pairwise(sets):
        # Replicas read the change at different times: either may meet the other's tokens.
        for made_by, checked_by in ((step, next_step), (next_step, step)):
            token = mint("alice", "h", made_by, 1000, 900, "id")
            assert verify_own(token, checked_by.keys[parse_header(token)["kid"]], users, 1000) == "alice"
    assert parse_header(mint("alice", "h", sets[0], 1000, 900, "id"))["kid"] not in sets[3].keys


@pytest.mark.parametrize("content", [b"", b"\n \n", b"short-canary", b"a" * 64, b"\xff" * 40, (SECRET + b"\n") * 5])
def test_a_bad_signing_key_signs_nothing(content: bytes) -> None:
    found = parse_signing_keys(content, "/etc/key")
    assert not found.keys
    assert found.problems[0].reason == "SecretMalformed"
    assert "canary" not in found.problems[0].message
    assert "openssl rand" in found.problems[0].message
