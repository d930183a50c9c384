"""Start a program with its log, and wait until it answers."""

from __future__ import annotations

import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from .keeper import ClusterFailed

# Nothing here takes longer on 2 busy cores; a minute more only delays bad news.
PATIENCE_SECONDS = 90


class Programs:
    """The running programs of one cluster; NAME.log and NAME.pid lie in its folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.commands: dict[str, tuple[tuple[str | Path, ...], Mapping[str, str] | None]] = {}

    def restart(self, name: str) -> None:
        """Kill a program and start it again as it was."""
        self.running[name].kill()
        self.running[name].wait()
        command, env = self.commands[name]
        self.start(name, *command, env=env)

    def start(self, name: str, *command: str | Path, env: Mapping[str, str] | None = None) -> None:
        self.commands[name] = command, env
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                # Dies with whoever started it: see keeper.py.
                ["setpriv", "--pdeathsig=KILL", "--", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        self.running[name] = process
        (self.directory / f"{name}.pid").write_text(str(process.pid))

    def wait_for(self, name: str, what: str, ready: Callable[[], bool]) -> None:
        """Wait until `ready()`; fail with the program's last words if it ends or takes too long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ready():
            status = self.running[name].poll()
            if status is not None:
                raise ClusterFailed(f"{name} ended with {status}:\n{self.last_words(name)}")
            if time.monotonic() > deadline:
                late = f"{name}: no {what} after {PATIENCE_SECONDS} s"
                raise ClusterFailed(f"{late}:\n{self.last_words(name)}")
            time.sleep(0.05)

    def wait_for_url(self, name: str, url: str, context: ssl.SSLContext | None = None) -> None:
        self.wait_for(name, f"answer of {url}", lambda: answers(url, context))

    def last_words(self, name: str, lines: int = 25) -> str:
        log = (self.directory / f"{name}.log").read_text(errors="replace")
        return "\n".join(log.splitlines()[-lines:])


def answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    # No proxy of the environment stands between us and loopback.
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
