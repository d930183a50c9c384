"""Why a credential source lets nobody in, in words that may be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reason = Literal["SecretMissing", "SecretMalformed", "JWKSUnreachable"]


@dataclass(frozen=True)
class Problem:
    """For /posture and the log: a reason in CamelCase, and what to do. Never a secret."""

    reason: Reason
    message: str


def shown(name: str) -> str:
    """A name from a file as it may stand in a message."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:64])
