"""The gate: an Authorization header to a caller, or the same refusal for every reason."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import NoReturn

from .auth import Basic, Caller, parse_basic, presented
from .errors import GrantUnavailable, Unauthenticated
from .files import SecretFiles
from .metrics import Metrics
from .own_tokens import mint, verify_own
from .passwords import Passwords
from .settings_auth import AuthSettings, TokenSettings
from .tokens import TokenRefused, UnknownKey, parse_header, user, verify

Clock = Callable[[], float]


class Gate:
    """Knows who is asking. `clock` counts seconds, `now` gives those since 1970, `newer` brings newer keys."""

    def __init__(
        self,
        auth: AuthSettings,
        files: SecretFiles,
        newer: Callable[[], Awaitable[bool]],
        metrics: Metrics,
        clock: Clock,
        now: Clock,
    ) -> None:
        self.auth = auth
        self.files = files
        self.newer = newer
        self.metrics = metrics
        self.now = now
        self.passwords = Passwords(metrics, clock)

    async def caller(self, authorization: list[str], address: str) -> Caller:
        """Who this is.

        Raises:
            Unauthenticated: no credentials, or wrong ones.
            RateLimited: too many wrong passwords, before any hashing.
        """
        if self.auth.mode == "None":
            return Caller("", address)
        scheme, value = presented(authorization)
        if scheme == "bearer" and self.auth.bearer_accepted:
            return Caller(await self.bearer(value), address)
        if scheme != "basic" or not self.auth.basic_accepted:
            self.refuse("missing" if not authorization else "scheme")
        basic, users = parse_basic(authorization), self.files.basic.value.users
        if basic is None or not users:
            self.refuse("malformed" if basic is None else "no_users")
        if not await self.passwords.right(basic, users, address):
            self.refuse("wrong")
        return Caller(basic.user, address)

    def refuse(self, reason: str, *, bearer: bool = False) -> NoReturn:
        """Count the reason; the client does not learn it."""
        self.metrics.auth_failures.labels(reason).inc()
        raise Unauthenticated(self.auth.basic_accepted, self.auth.bearer_accepted, token_given=bearer)

    async def bearer(self, token: str) -> str:
        """The user of a token. A key that nobody knows may have come since."""
        try:
            try:
                return self.token_user(token)
            except UnknownKey:
                if not await self.newer():
                    raise
                return self.token_user(token)
        except TokenRefused as refused:
            self.refuse(refused.reason, bearer=True)

    def token_user(self, token: str) -> str:
        """By our own keys where the token names one of them, by the issuer's otherwise."""
        kid = parse_header(token).get("kid")
        own = self.files.signing.value.keys.get(kid or "")
        if own:
            return verify_own(token, own, self.files.basic.value.users, self.now())
        if self.auth.jwt is None:
            raise UnknownKey
        policy = self.auth.jwt.policy
        return user(verify(token, self.files.jwks.value, policy, self.now()), policy.username_claim)

    async def token(self, basic: Basic, address: str, settings: TokenSettings) -> str | None:
        """A token for a user with the right password; None for everybody else.

        Raises:
            RateLimited: too many wrong ones, before any hashing.
            GrantUnavailable: there is no key to sign with, or no user.
        """
        keys, users = self.files.signing.value, self.files.basic.value.users
        if not keys.keys or not users:
            raise GrantUnavailable("There are no tokens to be had now; try again later.")
        if not await self.passwords.right(basic, users, address):
            self.metrics.auth_failures.labels("wrong").inc()
            return None
        now = int(self.now())
        # Of the reading from before the hash: if the entry has changed since, the token is void already.
        return mint(basic.user, users[basic.user], keys, now, settings.ttl_seconds, secrets.token_urlsafe(16))
