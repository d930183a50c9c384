"""zimage-worker: settings → engine → app → server. No rules."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from . import __version__, logs, loop_lag, settings
from . import plan_command as plan
from .admission import FairQueue, RateLimit, Uploads
from .app import create_app, paths
from .credentials import Gate
from .dependencies import Parts
from .encoding import Encoder
from .engines import Engine, Loader, Phase
from .engines.thread import EngineThread
from .errors import NotReady
from .fetch import command as fetch
from .files import POLL_SECONDS, SecretFiles
from .images import side
from .jwks_url import AtMostEvery, JwksUrl
from .management import Management
from .manifest import check_sizes
from .metrics import Metrics
from .middleware import UPLOADS_MAX_BYTES, Envelope, Quiet, Surroundings
from .protocol import Edge, Port
from .routes import verify
from .server import Server, connections_max, listening
from .settings import Settings, SettingsWrong
from .state import RETRY_SECONDS, ModelFacts, State
from .visible import words_of

log = logging.getLogger("zimage")

# The engine thread runs Python between its kernels. With the interpreter's own 5 ms each wake-up of the event
# loop may wait that long, some ten times a request (measured: 50 ms for a refusal while a picture is made).
SWITCH_SECONDS = 0.0005
# How often the engine's pulse is felt.
GUARD_SECONDS = 1.0
# For the errors of those whom the drain's end cuts off. With Running.close it stays within the operator's EXIT_SECONDS.
LAST_WORD_SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="zimage-worker", description="Serves one Z-Image model on one GPU.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve; the settings are ZIMAGE_* variables")
    tiny = commands.add_parser("tiny", help="write a tiny random model for trials and tests")
    tiny.add_argument("folder", type=Path, metavar="DIR")
    fetch.add(commands)
    plan.add(commands)
    arguments = parser.parse_args(argv)
    if arguments.command == "serve":
        return serve()
    return write_tiny(arguments.folder) if arguments.command == "tiny" else int(arguments.run(arguments))


def write_tiny(folder: Path) -> int:
    """The tiny model, and its size."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from .tiny import write

    print(f"{folder}: {write(folder) / 1e6:.2f} MB")
    return 0


def serve() -> int:
    """Exit code 0 after a drain, 1 after a crash, 2 for wrong settings."""
    try:
        chosen = settings.parse(os.environ)
        access_log = logs.AccessLog.at(chosen.access_log)
    except SettingsWrong as error:
        print("\n".join(error.mistakes), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ZIMAGE_ACCESS_LOG: {error.strerror}; write stdout or the path of a file", file=sys.stderr)
        return 2
    logs.configure()
    sys.setswitchinterval(SWITCH_SECONDS)
    access_log.start()
    code = asyncio.run(Process(chosen, access_log).run())
    access_log.close()
    sys.stderr.flush()
    # Not sys.exit: a kernel that never returns, or torch's own threads, must not keep us.
    os._exit(code)


def loader(chosen: Settings, facts: ModelFacts, metrics: Metrics) -> Loader:
    """torch is imported on the engine thread, seconds after the management port answers."""

    def load(told: Callable[[Phase], None]) -> Engine:
        # Before the seconds of torch: a folder that is not whole is not loaded.
        facts.manifest_sha256 = check_sizes(chosen.model_path)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from .engines import zimage

        side_px, most_px = side(chosen.limits), chosen.limits.max_pixels
        engine = zimage.load(
            chosen.model_path, chosen.device, chosen.gpu_memory_bytes, side_px, most_px, metrics.counted, told
        )
        if engine.placement:
            facts.strategy, facts.largest_pixels = engine.placement.strategy, engine.placement.largest_pixels
        return engine

    return load


async def follow(files: SecretFiles) -> None:
    """For ever."""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        await asyncio.to_thread(files.read)


class Process:
    """Everything that lives as long as the process."""

    def __init__(self, chosen: Settings, access_log: logs.AccessLog) -> None:
        self.settings = chosen
        self.stop = asyncio.Event()
        self.crash = asyncio.Event()
        self.access_log = access_log

    async def run(self) -> int:
        """From the first socket to the last answer."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        parts = self.parts(loop)
        app, management_app = create_app(parts), Management(parts.state, parts.queue, parts.metrics)
        surroundings = Surroundings(app, words_of(paths(app)), self.settings, self.access_log, parts.metrics)
        quiet = Quiet(management_app, words_of(management_app.paths), self.access_log)
        try:
            management = await self.start(
                quiet, self.edge("management", parts.metrics),
                self.settings.management_host, self.settings.management_port,
            )  # fmt: skip
            api = await self.start(
                surroundings, self.edge("api", parts.metrics), self.settings.host, self.settings.port
            )
        except OSError as error:
            log.critical("cannot listen: %s", error)
            return 1
        parts.state.listening = True
        parts.engine.start()
        followed = [self.watch(follow) for follow in self.followed(parts.state.files)]
        tasks = (*followed, self.guard(parts.engine), loop_lag.measure(parts.metrics))
        watching = [asyncio.create_task(each) for each in tasks]
        await self.ended()
        parts.state.draining = True
        code = 1 if self.crash.is_set() else await self.drain(surroundings, parts)
        for task in watching:
            task.cancel()
        await asyncio.gather(api.close(), management.close())
        return code

    def crashed(self, loop: asyncio.AbstractEventLoop) -> None:
        """From the engine thread: the process has to end."""
        loop.call_soon_threadsafe(self.crash.set)

    def parts(self, loop: asyncio.AbstractEventLoop) -> Parts:
        """Wire the parts together."""
        chosen, metrics = self.settings, Metrics()
        self.access_log.dropped = metrics.access_log_dropped.inc
        files = SecretFiles(chosen)
        facts = ModelFacts()
        loading = loader(chosen, facts, metrics)
        engine = EngineThread(chosen.model_path, loading, lambda: self.crashed(loop), metrics.busy_seconds.inc)
        jwks = chosen.auth.jwt.jwks_url if chosen.auth.jwt else ""
        self.jwks = JwksUrl(jwks, files.jwks, time.monotonic) if jwks else None
        # A file's newer keys are a read away, an address' a fetch.
        newer = (
            self.jwks.newer if self.jwks else AtMostEvery(1.0, partial(asyncio.to_thread, files.read), time.monotonic)
        )
        if chosen.auth.mode == "None":
            log.warning("AUTHENTICATION IS OFF: ZIMAGE_AUTH_MODE is None, everybody who reaches the port is served")
        rates = (chosen.rate_limit_per_minute, chosen.rate_limit_burst, time.monotonic)
        return Parts(
            settings=chosen,
            state=State(chosen, engine, files, facts=facts),
            gate=Gate(chosen.auth, files, newer, metrics, time.monotonic, time.time),
            addresses=RateLimit(*rates),
            users=RateLimit(*rates),
            verifications=verify.limit(*rates),
            queue=FairQueue(chosen.queue_length, chosen.request_timeout_seconds, time.monotonic),
            uploads=Uploads(UPLOADS_MAX_BYTES),
            engine=engine,
            encoder=Encoder(metrics.encode_seconds.observe),
            metrics=metrics,
        )

    def edge(self, port: Port, metrics: Metrics) -> Edge:
        """What a port's connections share."""
        return Edge(port, connections_max(), metrics, self.access_log)

    async def start(self, app: Envelope, edge: Edge, host: str, port: int) -> Running:
        """One server, listening when this returns."""
        made = Server(app, edge)
        bound = listening(host, port)
        running = Running(made, asyncio.create_task(made.serve([bound])))
        while not made.started and not running.task.done():
            await asyncio.sleep(0.01)
        log.info("listening on %s:%d", host, port)
        return running

    def followed(self, files: SecretFiles) -> list[Callable[[], Awaitable[None]]]:
        """What changes while the process runs."""
        return [partial(follow, files), *([self.jwks.follow] if self.jwks else [])]

    async def watch(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Follow the credentials; a watcher that dies takes the process with it."""
        try:
            await follow()
        except Exception:
            log.critical("the credentials can no longer be followed; the process ends", exc_info=True)
            self.crash.set()

    async def guard(self, engine: EngineThread) -> None:
        """A thread that hangs cannot say so itself; also during a drain, which would wait for it in vain."""
        while not engine.silent_too_long(self.settings.stall_seconds):
            await asyncio.sleep(GUARD_SECONDS)
        log.critical("the engine has made no step for too long; the process ends")
        engine.give_up()
        self.crash.set()

    async def ended(self) -> None:
        """Until somebody wants it to end, or it must."""
        waits = [asyncio.create_task(event.wait()) for event in (self.stop, self.crash)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def drain(self, surroundings: Surroundings, parts: Parts) -> int:
        """Let what runs and waits finish, as long as it may; who is left then gets an error."""
        log.info("draining %d requests, at most %d s", surroundings.in_flight, self.settings.drain_seconds)
        await self.settled(surroundings, self.settings.drain_seconds)
        if surroundings.in_flight and not self.crash.is_set():
            log.warning("the drain time is over: %d requests are cut off", surroundings.in_flight)
            error = NotReady("The worker ends; try again.", code="draining", retry_after_seconds=RETRY_SECONDS)
            parts.queue.cut(error)
            parts.engine.cut(error)
            await self.settled(surroundings, LAST_WORD_SECONDS)
        return 1 if self.crash.is_set() else 0

    async def settled(self, surroundings: Surroundings, seconds: float) -> None:
        """Until every request is answered, time is up, or the process has to end."""
        until = time.monotonic() + seconds
        while surroundings.in_flight and time.monotonic() < until and not self.crash.is_set():
            await asyncio.sleep(0.05)


class Running:
    """A server and its task."""

    def __init__(self, made: Server, task: asyncio.Task[None]) -> None:
        self.server = made
        self.task = task

    async def close(self) -> None:
        """No new connections; the open ones get a few seconds for their last bytes."""
        self.server.should_exit = True
        await asyncio.wait({self.task}, timeout=10)


if __name__ == "__main__":
    sys.exit(main())
