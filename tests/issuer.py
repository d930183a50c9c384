"""A token issuer for tests: its keys, its key set, honest tokens and forged ones, down to the byte."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://issuer.example.org/", "zimage"
MAKERS: dict[str, tuple[Callable[[], Any], Any]] = {
    "RS256": (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Issuer:
    """Signs with any of its keys, named by kid."""

    def __init__(self, **algorithms: str) -> None:
        self.private: dict[str, Any] = {}
        self.algorithms = algorithms or {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}
        for kid, algorithm in self.algorithms.items():
            self.private[kid] = MAKERS[algorithm][0]()

    def jwk(self, kid: str) -> dict[str, Any]:
        public = MAKERS[self.algorithms[kid]][1].to_jwk(self.private[kid].public_key(), as_dict=True)
        return {**public, "kid": kid, "use": "sig", "alg": self.algorithms[kid]}

    def jwks(self, *kids: str) -> bytes:
        return compact({"keys": [self.jwk(kid) for kid in kids or self.private]})

    def token(self, kid: str = "rsa", *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """An honest token with some members replaced (None: taken out)."""
        head = {"alg": self.algorithms[kid], "typ": "JWT", "kid": kid, **(header or {})}
        return self.raw(compact(without_none(head)), compact(without_none({**honest(), **claims})), kid)

    def raw(self, header: bytes, payload: bytes, kid: str = "rsa") -> str:
        """Any bytes, signed rightly."""
        signing_input = f"{b64(header)}.{b64(payload)}"
        algorithm = jwt.get_algorithm_by_name(self.algorithms[kid])
        return f"{signing_input}.{b64(algorithm.sign(signing_input.encode(), self.private[kid]))}"


def honest() -> dict[str, Any]:
    # For a long run: a forgery that is made when the tests are collected must not be refused as a token of yesterday.
    now = int(time.time())
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "carla", "iat": now, "exp": now + 43_200}


def without_none(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not None}


def forgeries(issuer: Issuer) -> dict[str, str]:
    """Tokens that nobody may accept: the known attacks, each signed as well as an attacker can."""
    now = int(time.time())
    good = issuer.token()
    header, payload, signature = good.split(".")
    head = {"alg": "RS256", "typ": "JWT", "kid": "rsa"}
    stranger = Issuer(rsa="RS256", other="RS256")
    pem = public_pem(issuer)
    duplicate = compact(honest())[:-1]
    found = {
        "alg none": f"{b64(compact({**head, 'alg': 'none'}))}.{payload}.",
        "alg none, signed": f"{b64(compact({**head, 'alg': 'none'}))}.{payload}.{signature}",
        "alg NoNe": f"{b64(compact({**head, 'alg': 'NoNe'}))}.{payload}.{signature}",
        "alg missing": issuer.token(header={"alg": None}),
        "alg null": issuer.raw(b'{"alg":null,"kid":"rsa"}', compact(honest())),
        "alg list": issuer.raw(b'{"alg":["RS256"],"kid":"rsa"}', compact(honest())),
        "alg of another type": issuer.token(header={"alg": "ES256"}),
        "alg not allowed": issuer.token(header={"alg": "RS512"}),
        "alg of two cases": issuer.token(header={"alg": "rs256"}),
        "HS by the public PEM": hmac_token({**head, "alg": "HS256"}, pem),
        "HS by the key set": hmac_token({**head, "alg": "HS256"}, issuer.jwks()),
        "HS by the modulus": hmac_token({**head, "alg": "HS256"}, issuer.jwk("rsa")["n"].encode()),
        "HS by nothing": hmac_token({**head, "alg": "HS256"}, b""),
        "another's key under our kid": stranger.token("rsa"),
        "another's key, kid unknown": stranger.token("other"),
        "kid path": stranger.token("rsa", header={"kid": "../../../../dev/null"}),
        "kid SQL": stranger.token("rsa", header={"kid": "x' UNION SELECT 'AAAA';--"}),
        "kid NUL": stranger.token("rsa", header={"kid": "rsa\0"}),
        "kid number": issuer.token(header={"kid": 7}),
        "kid list": issuer.token(header={"kid": ["rsa"]}),
        "kid of another key": issuer.token("rsa", header={"kid": "ec"}),
        "kid missing among many": issuer.token(header={"kid": None}),
        "kid empty": issuer.token(header={"kid": ""}),
        "jku": stranger.token("rsa", header={"jku": "http://127.0.0.1:9/jwks"}),
        "jku on a good token": issuer.token(header={"jku": "https://issuer.example.org/jwks"}),
        "x5u": issuer.token(header={"x5u": "https://issuer.example.org/x5u"}),
        "x5c": issuer.token(header={"x5c": ["MIIB"]}),
        "jwk embedded": stranger.token("rsa", header={"jwk": stranger.jwk("rsa")}),
        "jwk on a good token": issuer.token(header={"jwk": issuer.jwk("rsa")}),
        "crit": issuer.token(header={"crit": ["exp"]}),
        "crit empty": issuer.token(header={"crit": []}),
        "crit b64": issuer.token(header={"crit": ["b64"], "b64": False}),
        "b64 true": issuer.token(header={"b64": True}),
        "b64 false, detached": f"{header}..{signature}",
        "zip": issuer.token(header={"zip": "DEF"}),
        "typ of an ID token's cousin": issuer.token(header={"typ": "logout+jwt"}),
        "typ number": issuer.token(header={"typ": 1}),
        "header member twice": issuer.raw(b'{"alg":"none","alg":"RS256","kid":"rsa"}', compact(honest())),
        "claim twice": issuer.raw(compact(head), duplicate + b',"sub":"root"}'),
        "claim twice, escaped": issuer.raw(compact(head), duplicate + b',"\\u0073ub":"root"}'),
        "exp as text": issuer.token(exp=str(now + 600)),
        "exp true": issuer.token(exp=True),
        "exp list": issuer.token(exp=[now + 600]),
        "exp 10^18": issuer.token(exp=10**18),
        "exp 1e400": issuer.raw(compact(head), expiring(b"1e400")),
        "exp Infinity": issuer.raw(compact(head), expiring(b"Infinity")),
        "exp NaN": issuer.raw(compact(head), expiring(b"NaN")),
        "exp of 5,000 digits": issuer.raw(compact(head), expiring(b"9" * 5000)),
        "exp negative": issuer.token(exp=-1),
        "exp past": issuer.token(exp=now - 60),
        "exp in 400 days": issuer.token(exp=now + 400 * 86_400),
        "exp missing": issuer.token(exp=None),
        "nbf in the future": issuer.token(nbf=now + 86400),
        "nbf as text": issuer.token(nbf="0"),
        "nbf true": issuer.token(nbf=True),
        "iat true": issuer.token(iat=True),
        "iat in the future": issuer.token(iat=now + 86400),
        "aud as a prefix": issuer.token(aud=AUDIENCE[:-1]),
        "aud longer": issuer.token(aud=f"{AUDIENCE}.evil.example.org"),
        "aud in a text": issuer.token(aud=f"x,{AUDIENCE}"),
        "aud in other letters": issuer.token(aud=AUDIENCE.upper()),
        "aud object": issuer.token(aud={AUDIENCE: 1}),
        "aud list with a number": issuer.token(aud=[AUDIENCE, 1]),
        "aud empty": issuer.token(aud=[]),
        "aud missing": issuer.token(aud=None),
        "iss longer": issuer.token(iss=f"{ISSUER}evil"),
        "iss without its slash": issuer.token(iss=ISSUER.rstrip("/")),
        "iss list": issuer.token(iss=[ISSUER]),
        "iss missing": issuer.token(iss=None),
        "sub missing": issuer.token(sub=None),
        "sub empty": issuer.token(sub=""),
        "sub number": issuer.token(sub=7),
        "sub with a line break": issuer.token(sub="carla\r\nX-Auth-User: root"),
        "sub too long": issuer.token(sub="x" * 257),
        "payload list": issuer.raw(compact(head), b"[]"),
        "payload text": issuer.raw(compact(head), b'"carla"'),
        "payload no JSON": issuer.raw(compact(head), b"\xff\xfe"),
        "payload deep": issuer.raw(compact(head), b"[" * 5000 + b"]" * 5000),
        "header no JSON": issuer.raw(b"{", compact(honest())),
        "header list": issuer.raw(b"[]", compact(honest())),
        "nested": issuer.raw(compact({**head, "cty": "JWT"}), good.encode()),
        "encrypted": f"{b64(compact({'alg': 'dir', 'enc': 'A256GCM'}))}..{b64(b'x' * 12)}.{payload}.{b64(b'x' * 16)}",
        "encrypted, three parts": issuer.token(header={"alg": "dir", "enc": "A256GCM"}),
        "two parts": f"{header}.{payload}",
        "four parts": f"{good}.{signature}",
        "no signature": f"{header}.{payload}.",
        "signature cut": good[:-4],
        "signature of zeros": f"{header}.{payload}.{b64(bytes(256))}",
        "signature changed": f"{header}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
        "ES signature of zeros": issuer.token("ec").rpartition(".")[0] + "." + b64(bytes(64)),
        "payload of another": f"{header}.{issuer.token(sub='root').split('.')[1]}.{signature}",
        "padded": f"{header}.{payload}.{signature}==",
        "padded in the middle": f"{header}=.{payload}.{signature}",
        "last bits": f"{good[:-1]}{last_bits(good[-1])}",
        "standard alphabet": f"{header}.{payload}.+/{signature[2:]}",
        "blank inside": f"{header}. {payload}.{signature}",
        "tab at the end": f"{good}\t.",
        "comma": f"{good},{good}",
        "8,193 characters": issuer.token(filler="x" * 6000),
        "empty": "",
        "dots": "..",
    }  # fmt: skip
    assert len(found["8,193 characters"]) > 8192
    return found


def expiring(number: bytes) -> bytes:
    """Honest claims whose exp is written as no library writes it."""
    return compact({**honest(), "exp": 0}).replace(b'"exp":0', b'"exp":' + number)


def last_bits(letter: str) -> str:
    """Another letter whose unused low bits alone differ: 256 bytes leave four bits unused."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(letter) ^ 1]


def hmac_token(header: dict[str, Any], secret: bytes) -> str:
    signing_input = f"{b64(compact(header))}.{b64(compact(honest()))}"
    return f"{signing_input}.{b64(hmac.digest(secret, signing_input.encode(), 'sha256'))}"


def public_pem(issuer: Issuer) -> bytes:
    key = issuer.private["rsa"].public_key()
    return bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
