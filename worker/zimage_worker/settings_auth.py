"""The settings of authentication: which credentials are accepted, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import urlsplit

from .keys import ALGORITHMS, HMAC_MIN_BYTES
from .tokens import Policy

if TYPE_CHECKING:
    from .settings import Reader

AuthMode = Literal["Basic", "JWT", "Any", "None"]
MODES = ("Basic", "JWT", "Any", "None")
# What issuers sign with unless told otherwise; all with a public key, so that nothing here can sign.
DEFAULT_ALGORITHMS = "RS256,ES256,EdDSA"
# A token that lives for days is a password that cannot be taken back by its owner.
TTL_MIN_SECONDS, TTL_MAX_SECONDS = 60, 86_400


@dataclass(frozen=True)
class JwtSettings:
    """An issuer's tokens: whose, signed how, by keys from where (one of file and URL)."""

    policy: Policy
    algorithms: tuple[str, ...]
    jwks_file: Path | None
    jwks_url: str


@dataclass(frozen=True)
class TokenSettings:
    """POST /token."""

    signing_key_file: Path
    ttl_seconds: int


@dataclass(frozen=True)
class AuthSettings:
    """Everything about who gets in."""

    mode: AuthMode
    basic_file: Path | None
    jwt: JwtSettings | None
    token: TokenSettings | None

    @property
    def basic_accepted(self) -> bool:
        """Whether a password opens the API itself, not only /token."""
        return self.mode in {"Basic", "Any"}

    @property
    def bearer_accepted(self) -> bool:
        """Whether any token is looked at."""
        return self.jwt is not None or self.token is not None


def parse_auth(read: Reader) -> AuthSettings:
    """Mode, files, issuer and /token, with a mistake for each combination that could let nobody in."""
    mode = auth_mode(read)
    if mode == "None":
        if read.text("ZIMAGE_TOKEN_SIGNING_KEY_FILE"):
            read.wrong("ZIMAGE_TOKEN_SIGNING_KEY_FILE", "mode None asks nobody for a token", "nothing, or another mode")
        return AuthSettings(mode, None, None, None)
    token = token_settings(read)
    return AuthSettings(mode, basic_file(read, mode, token), jwt_settings(read, mode, token), token)


def auth_mode(read: Reader) -> AuthMode:
    """The mode is never guessed."""
    mode = read.text("ZIMAGE_AUTH_MODE")
    if not mode:
        write = "Basic, JWT or Any, or None to leave the API open"
        read.wrong("ZIMAGE_AUTH_MODE", "it is not set and is never guessed", write)
    elif mode not in MODES:
        read.wrong("ZIMAGE_AUTH_MODE", f"{mode[:40]!r} is no mode", "Basic, JWT, Any or None")
    return cast(AuthMode, mode) if mode in MODES else "Basic"


def basic_file(read: Reader, mode: AuthMode, token: TokenSettings | None) -> Path | None:
    """The htpasswd file; the file itself may come later, its name may not."""
    text = read.text("ZIMAGE_BASIC_FILE")
    if not text and (mode in {"Basic", "Any"} or token):
        needs = f"mode {mode}" if mode in {"Basic", "Any"} else "POST /token"
        read.wrong("ZIMAGE_BASIC_FILE", f"it is not set, and {needs} needs it", "the path of an htpasswd file")
    return Path(text) if text and (mode != "JWT" or token) else None


def token_settings(read: Reader) -> TokenSettings | None:
    """POST /token is on when its key has a path."""
    path = read.text("ZIMAGE_TOKEN_SIGNING_KEY_FILE")
    ttl_seconds = read.number("ZIMAGE_TOKEN_TTL_SECONDS", 900, TTL_MIN_SECONDS, TTL_MAX_SECONDS)
    return TokenSettings(Path(path), ttl_seconds) if path else None


def jwt_settings(read: Reader, mode: AuthMode, token: TokenSettings | None) -> JwtSettings | None:
    """The issuer's part; none in mode Basic, and none where /token is the only issuer."""
    names = ("ISSUER", "AUDIENCES", "JWKS_FILE", "JWKS_URL")
    if mode == "Basic" or (token and not any(read.text(f"ZIMAGE_JWT_{name}") for name in names)):
        return None
    why = f"it is not set, and mode {mode} needs it"
    for name, write in (
        ("ZIMAGE_JWT_ISSUER", "the exact text of the tokens' iss"),
        ("ZIMAGE_JWT_AUDIENCES", "the texts of which one must stand in the tokens' aud"),
    ):
        if not read.items(name):
            read.wrong(name, why, write)
    file, url = read.text("ZIMAGE_JWT_JWKS_FILE"), jwks_url(read)
    if not file and not read.text("ZIMAGE_JWT_JWKS_URL"):
        read.wrong("ZIMAGE_JWT_JWKS_FILE", why, "the path of the issuer's JSON key set, or set ZIMAGE_JWT_JWKS_URL")
    if file and url:
        read.wrong("ZIMAGE_JWT_JWKS_URL", "ZIMAGE_JWT_JWKS_FILE is set too", "only one of them")
    policy = Policy(
        read.text("ZIMAGE_JWT_ISSUER"),
        tuple(read.items("ZIMAGE_JWT_AUDIENCES")),
        read.text("ZIMAGE_JWT_USERNAME_CLAIM", "sub"),
        tuple(required_claim(read, item) for item in read.items("ZIMAGE_JWT_REQUIRED_CLAIMS")),
    )
    return JwtSettings(policy, algorithms(read), Path(file) if file else None, url)


def required_claim(read: Reader, item: str) -> tuple[str, str | None]:
    """`name`, or `name=value`."""
    name, equals, value = (part.strip() for part in item.partition("="))
    if not name or (equals and not value):
        read.wrong(
            "ZIMAGE_JWT_REQUIRED_CLAIMS", f"{item[:80]!r} is no claim", "name or name=value, separated by commas"
        )
    return name, value if equals else None


def algorithms(read: Reader) -> tuple[str, ...]:
    """Fixed here: a token never chooses."""
    name = "ZIMAGE_JWT_ALGORITHMS"
    found = tuple(read.items(name)) or tuple(DEFAULT_ALGORITHMS.split(","))
    for item in found:
        if item not in ALGORITHMS:
            read.wrong(name, f"{item[:20]!r} is not accepted", f"some of {', '.join(ALGORITHMS)}")
    if 0 < len(HMAC_MIN_BYTES.keys() & set(found)) < len(set(found)):
        # A public key is known to everybody: where it could also count as a shared secret, everybody signs.
        read.wrong(name, "HS algorithms stand beside others", "either HS ones or public-key ones, never both")
    return found


def jwks_url(read: Reader) -> str:
    """An https address; plain http only to this machine. Never shown: it may hold a password."""
    text = read.text("ZIMAGE_JWT_JWKS_URL")
    if text and not is_safe(text):
        read.wrong("ZIMAGE_JWT_JWKS_URL", "it is no safe address", "https://HOST/PATH (http only to 127.0.0.1)")
    return text


def is_safe(url: str) -> bool:
    """Whether nobody between us and the address can change the keys."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    readable = url.isascii() and url.isprintable() and " " not in url and "@" not in parts.netloc and not parts.fragment
    return (
        bool(host)
        and port != 0
        and readable
        and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
    )


def is_loopback(host: str) -> bool:
    """By number only: a name is what the resolver makes of it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
