"""Whether the worker serves: one small object that the API asks and the management port shows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from . import __version__
from .engines import Phase
from .engines.thread import EngineThread
from .errors import NotReady
from .files import SecretFiles
from .problems import shown
from .settings import Limits, Settings

# Until the next replica or the model is there; a guess.
RETRY_SECONDS = 10


@dataclass
class ModelFacts:
    """What the loader learned; the engine thread writes, everybody reads."""

    # "" before the first load, and where nobody fetched the folder.
    manifest_sha256: str = ""
    # Of the memory plan; "" on a CPU, where there is none.
    strategy: str = ""
    # The largest picture that fits into the GPU's memory; None: only the settings limit it.
    largest_pixels: int | None = None


@dataclass
class State:
    """The parts whose health is the worker's."""

    settings: Settings
    engine: EngineThread
    files: SecretFiles
    draining: bool = False
    # Set once the API's socket listens.
    listening: bool = field(default=False)
    facts: ModelFacts = field(default_factory=ModelFacts)

    @property
    def limits(self) -> Limits:
        """What a request may ask: the settings, or less where the GPU is smaller than they think."""
        limits, largest = self.settings.limits, self.facts.largest_pixels
        return limits if largest is None else replace(limits, max_pixels=min(limits.max_pixels, largest))

    @property
    def phase(self) -> Phase:
        """Draining hides what the engine does."""
        return "draining" if self.draining else self.engine.phase

    def why_not_ready(self) -> list[str]:
        """Empty when requests can be served."""
        reasons = []
        if self.draining:
            reasons.append("the worker is draining")
        if not self.engine.loaded:
            why = self.engine.problem.message if self.engine.problem else f"the model is in phase {self.engine.phase}"
            reasons.append(why)
        if not self.files.loaded:
            reasons += [problem.message for problem in self.files.problems]
        if not self.listening:
            reasons.append("the API port does not listen")
        return reasons

    def ensure_serving(self) -> None:
        """For the API: refuse at once what could only wait.

        Raises:
            NotReady: loading, failed or draining.
        """
        if self.draining:
            raise NotReady("The worker is draining; try again.", code="draining", retry_after_seconds=RETRY_SECONDS)
        if not self.engine.loaded:
            raise NotReady("The model is not loaded; try again later.", retry_after_seconds=RETRY_SECONDS)


def posture(state: State) -> dict[str, Any]:
    """What was loaded, for the operator; never a secret."""
    settings, files, problem = state.settings, state.files, state.engine.problem
    sums = {"basic": files.basic.sha256, "jwks": files.jwks.sha256}
    return {
        "version": __version__,
        "templateRevision": settings.template_revision,
        "phase": state.phase,
        "auth": {
            "mode": settings.auth.mode,
            "users": len(files.basic.value.users),
            "keyIds": [shown(kid) for kid in files.key_ids],
            "filesSha256": {name: value for name, value in sums.items() if value},
            "problems": [{"reason": each.reason, "message": each.message} for each in files.problems],
        },
        "certificate": files.certificate.value.document() if files.certificate.value else None,
        "model": {
            "path": str(settings.model_path),
            "revision": settings.model_revision,
            "manifestSha256": state.facts.manifest_sha256,
            "strategy": state.facts.strategy,
            "problems": [{"reason": problem.reason, "message": problem.message}] if problem else [],
        },
        "limits": {
            "maxPixels": state.limits.max_pixels,
            "maxSteps": settings.limits.max_steps,
            "maxImages": settings.limits.max_images,
            "queueLength": settings.queue_length,
            "requestTimeoutSeconds": settings.request_timeout_seconds,
        },
    }
