"""The one thread that owns the model: it loads it, then makes pictures one order after the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import GenerationFailed, NotReady, WorkerError
from ..images import ImageOrder, Progress
from ..pace import Pace
from . import Engine, EngineBroken, Loader, Made, Memory, Phase, Stopped, Told

log = logging.getLogger("zimage.engine")

# A volume that is filled later is noticed soon; a broken model is not read over and over.
RETRY_MISSING_SECONDS = 10.0
RETRY_FAILED_SECONDS = 60.0
# Encoding the prompt, encoding a picture and decoding are no steps, and take a few steps' time each. A guess.
STALLED_STEPS = 20
# Until the process has begun anew; a guess.
RETRY_AFTER_SECONDS = 10
# The phases' share of a start, in hundredths; a guess from a warm page cache.
FRACTIONS: dict[Phase, float] = {"import": 0.0, "load": 0.3, "warm-up": 0.9, "ready": 1.0, "failed": 0.0}


@dataclass(frozen=True)
class ModelProblem:
    """Why there is no model."""

    reason: Literal["ModelMissing", "ModelLoadFailed", "EngineDied", "EngineStalled"]
    message: str


@dataclass
class Job:
    """An order on its way through the thread."""

    order: ImageOrder
    seed: int
    told: Told
    stop: threading.Event = field(default_factory=threading.Event)
    done: Future[Made] = field(default_factory=Future)
    # The asker's: what the thread logs bears the request's id.
    context: Context = field(default_factory=copy_context)

    # Whoever waits may have been told already, from outside the thread (`give_up`, `cut`).

    def succeed(self, made: Made) -> None:
        """Give the pictures to whoever waits."""
        with contextlib.suppress(InvalidStateError):
            self.done.set_result(made)

    def fail(self, error: Exception) -> None:
        """Tell whoever waits why there are none."""
        with contextlib.suppress(InvalidStateError):
            self.done.set_exception(error)


def missing(path: Path) -> ModelProblem | None:
    """Whether the folder is one that could be loaded at all."""
    try:
        if (path / "model_index.json").is_file():
            return None
        why = "model_index.json is not in it" if path.is_dir() else "there is no such folder"
    except OSError as error:
        why = error.strerror or "it cannot be read"
    return ModelProblem("ModelMissing", f"no model at {path}: {why}; fill the volume or mend its path")


class EngineThread:
    """Start it once; then `generate` from the event loop."""

    def __init__(self, path: Path, loader: Loader, crashed: Callable[[], None], busy: Callable[[float], None]) -> None:
        self.path = path
        self.loader = loader
        self.crashed = crashed
        # Hears of the seconds of each order, also of one that failed.
        self.busy = busy
        self.phase: Phase = "import"
        self.problem: ModelProblem | None = None
        self.engine: Engine | None = None
        self.closing = threading.Event()
        self.pace = Pace()
        # What is being made, and when it last gave a sign of life (time.monotonic).
        self.job: Job | None = None
        self.beat = 0.0
        # Why nothing more is made; None while something is.
        self.ending: WorkerError | None = None
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        # A daemon: a kernel that never returns must not keep the process from ending.
        self.thread = threading.Thread(target=self.run, name="engine", daemon=True)

    def start(self) -> None:
        """Load in the background."""
        self.thread.start()

    @property
    def loaded(self) -> bool:
        """Ready for orders."""
        return self.phase == "ready"

    @property
    def fraction(self) -> float:
        """How far the start is, from 0 to 1."""
        return FRACTIONS[self.phase]

    def weigh(self, order: ImageOrder) -> int:
        """The text tokens of an order, before it waits for anything.

        Raises:
            BadRequest, OutOfMemory: the model cannot take it.
        """
        return self.engine.weigh(order) if self.engine else 0

    def memory(self) -> Memory:
        """What the device holds."""
        return self.engine.memory() if self.engine else Memory()

    def told(self, phase: Phase) -> None:
        """The loader's progress."""
        log.info("model: %s", phase)
        self.phase = phase

    def run(self) -> None:
        """The thread: whatever it does not expect ends the process, never silently."""
        try:
            engine = self.load()
            while engine:
                job = self.jobs.get()
                job.context.run(self.work, engine, job)
        except BaseException:
            log.critical("the engine thread died; the process ends", exc_info=True)
            self.phase = "failed"
            self.problem = ModelProblem("EngineDied", "the engine thread died; the process ends; see its log")
            self.crashed()

    def load(self) -> Engine | None:
        """The engine, after as many tries as it takes; None when the process ends before."""
        while not self.closing.is_set():
            self.phase, wait_seconds = "import", RETRY_MISSING_SECONDS
            problem = missing(self.path)
            if problem is None:
                try:
                    self.engine = self.loader(self.told)
                except Exception as error:
                    log.exception("the model cannot be loaded")
                    message = f"the model at {self.path} cannot be loaded: {type(error).__name__}: {error}"
                    problem = ModelProblem("ModelLoadFailed", message[:500])
                    wait_seconds = RETRY_FAILED_SECONDS
                else:
                    self.problem = None
                    if self.engine.warmed:
                        order, made = self.engine.warmed
                        self.pace.learn(order, made.steps_seconds, made.decode_seconds)
                    self.told("ready")
                    return self.engine
            if problem != self.problem:
                log.error("%s", problem.message)
            self.phase, self.problem = "failed", problem
            self.closing.wait(wait_seconds)
        return None

    def work(self, engine: Engine, job: Job) -> None:
        """One order. A failed one is that client's misfortune; a lost device is everybody's."""
        began = self.beat = time.monotonic()
        self.job = job
        try:
            # After self.job was set: whichever of `cut` and this comes second sees the other.
            if self.ending:
                raise self.ending
            made = engine.generate(job.order, job.seed, job.stop, job.told)
        except (Stopped, WorkerError) as error:
            job.fail(error)
        except BaseException as error:
            fatal = isinstance(error, EngineBroken) or not isinstance(error, Exception)
            if not fatal:
                # Before the answer, which names the log.
                log.exception("a generation failed")
            # Whoever waits is told in any case, also before the process ends.
            job.fail(GenerationFailed("The model failed on this request; see the worker's log."))
            if fatal:
                raise
        else:
            self.pace.learn(job.order, made.steps_seconds, made.decode_seconds)
            job.succeed(made)
        finally:
            self.job = None
            self.busy(time.monotonic() - began)

    def silent_too_long(self, least_seconds: float) -> bool:
        """Whether the order at work is stuck: no step for `least_seconds` and for many steps' time."""
        job = self.job
        if job is None:
            return False
        allowed_seconds = max(least_seconds, STALLED_STEPS * self.pace.step_seconds(job.order))
        return time.monotonic() - self.beat > allowed_seconds

    def give_up(self) -> None:
        """From outside the thread, which hangs: not ready, and whoever waits is told. Only a new process helps."""
        self.phase = "failed"
        self.problem = ModelProblem("EngineStalled", "the engine makes no step any more; the process ends; see its log")
        if job := self.job:
            job.fail(GenerationFailed("The engine makes no step any more; the worker restarts."))

    def cut(self, error: WorkerError) -> None:
        """No time is left: whoever waits for a picture is told, and nobody begins to wait. On the event loop."""
        self.ending = error
        if job := self.job:
            job.fail(error)
            job.stop.set()

    async def generate(self, order: ImageOrder, seed: int, told: Told | None = None) -> Made:
        """Run one order; the caller holds the turn. Cancelled, it still waits for the thread's end.

        `told` hears of each step and picture on the event loop, before this returns.

        Raises:
            asyncio.CancelledError: the client left or time was up.
            GenerationFailed: the model broke.
            NotReady: the engine ended while this waited.
        """
        if self.ending:
            raise self.ending
        if self.engine and self.phase == "failed":
            raise NotReady("The engine has ended; try again later.", retry_after_seconds=RETRY_AFTER_SECONDS)
        loop = asyncio.get_running_loop()

        def across(progress: Progress) -> None:
            self.beat = time.monotonic()
            if told:
                loop.call_soon_threadsafe(told, progress)

        job = Job(order, seed, across)
        self.jobs.put(job)
        finished = asyncio.ensure_future(asyncio.wrap_future(job.done))
        cancelled = False
        while not finished.done():
            try:
                await asyncio.wait({finished})
            except asyncio.CancelledError:
                # The turn ends when the thread ends, not when the client leaves.
                cancelled = True
                job.stop.set()
        if cancelled:
            finished.exception()
            raise asyncio.CancelledError
        return finished.result()
