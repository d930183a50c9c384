"""One condition without its dates, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass

from .observed import Observed

IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True)
class Judgement:
    """True holds, False needs somebody, Unknown is under way."""

    type: str
    status: str
    reason: str
    message: str


def true(kind: str, reason: str, message: str) -> Judgement:
    return Judgement(kind, "True", reason, message)


def false(kind: str, reason: str, message: str) -> Judgement:
    return Judgement(kind, "False", reason, message)


def unknown(kind: str, reason: str, message: str) -> Judgement:
    return Judgement(kind, "Unknown", reason, message)


def refusal(kind: str, observed: Observed, kinds: frozenset[str]) -> Judgement | None:
    """Report an object that could not be brought in place, under the condition that it belongs to."""
    found = next((item for item in observed.refused if item.kind in kinds), None)
    return false(kind, found.reason, found.message) if found else None
