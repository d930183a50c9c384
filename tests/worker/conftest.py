"""The real worker process with the tiny model, on free loopback ports."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import openai
import pytest

from cluster.ports import free_ports
from issuer import AUDIENCE, ISSUER, Issuer

USER, PASSWORD = "alice", "canary-password-7f3a"
SECRET_LINE = f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n"
# The machine may be busy with a whole cluster; nothing is asserted about these.
START_SECONDS = 240
PATIENCE_SECONDS = 90


def eventually(what: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    until = time.monotonic() + seconds
    while True:
        try:
            if value := what():
                return value
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.05)


def events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """As a browser reads them: comments are skipped."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


class Worker:
    """One process, its ports and its logs."""

    def __init__(self, folder: Path, model: Path, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Asked for together: one by one, both could be the same.
        self.port, self.management_port = free_ports(2)
        self.htpasswd = folder / "auth"
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ZIMAGE_")},
            "PYTHONPATH": str(Path(__file__).parents[2] / "worker"),
            "OMP_NUM_THREADS": "1",
            "ZIMAGE_MODEL_PATH": str(model),
            "ZIMAGE_MODEL_REVISION": "revision-1",
            "ZIMAGE_TEMPLATE_REVISION": "template-1",
            "ZIMAGE_DEVICE": "cpu",
            "ZIMAGE_HOST": "127.0.0.1",
            "ZIMAGE_PORT": str(self.port),
            "ZIMAGE_MANAGEMENT_HOST": "127.0.0.1",
            "ZIMAGE_MANAGEMENT_PORT": str(self.management_port),
            "ZIMAGE_AUTH_MODE": "Basic",
            "ZIMAGE_BASIC_FILE": str(self.htpasswd),
            "ZIMAGE_ALLOWED_HOSTS": "127.0.0.1,images.example.org",
            "ZIMAGE_TRUSTED_PROXIES": "0.0.0.0/0,::/0",
            "ZIMAGE_RATE_LIMIT_PER_MINUTE": "100000",
            "ZIMAGE_RATE_LIMIT_BURST": "100000",
            "ZIMAGE_MAX_PIXELS": "65536",
            "ZIMAGE_MAX_STEPS": "1000",
            **settings,
        }
        self.command = ["-m", "zimage_worker", "serve"]
        self.process: subprocess.Popen[bytes] | None = None
        self.api = self.client("ZIMAGE")
        self.management = self.client("ZIMAGE_MANAGEMENT")

    def client(self, listener: str) -> httpx.Client:
        place = f"{self.environ[f'{listener}_HOST']}:{self.environ[f'{listener}_PORT']}"
        return httpx.Client(base_url=f"http://{place}", timeout=60)

    def start(self) -> Worker:
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen([sys.executable, *self.command], env=self.environ, stdout=out, stderr=err)
        return self

    def end(self) -> int:
        assert self.process
        self.api.close()
        self.management.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_SECONDS)
        finally:
            self.process.kill()

    def ready(self) -> Worker:
        eventually(self.is_ready, START_SECONDS)
        return self

    def is_ready(self) -> bool:
        """Whether it serves; a process that has ended never will."""
        assert self.process
        assert self.process.poll() is None, f"exit code {self.process.returncode}\n{self.logs()[-4000:]}"
        return self.management.get("/health/ready").status_code == 200

    def posture(self) -> dict[str, Any]:
        found: dict[str, Any] = self.management.get("/posture").json()
        return found

    def why(self) -> str:
        return self.management.get("/health/ready").text

    def metric(self, name: str) -> float:
        for line in self.management.get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        return 0.0

    def generate(self, body: Any = None, *, auth: Any = (USER, PASSWORD), **options: Any) -> httpx.Response:
        options.setdefault("json", {"prompt": "a red fox", "size": "64x64", "steps": 1, **(body or {})})
        return self.api.post("/v1/images/generations", auth=auth, **options)

    def streaming(self, **body: Any) -> Any:
        """A stream to read from, small unless it is asked to be large."""
        sent = {"prompt": "a red fox", "size": "64x64", "steps": 4, "stream": True, **body}
        return self.api.stream("POST", "/v1/images/generations", json=sent, auth=(USER, PASSWORD))

    def streamed(self, **body: Any) -> list[tuple[str, dict[str, Any]]]:
        """All events of a stream."""
        with self.streaming(**body) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            return list(events(answer))

    def openai(self, **headers: str) -> openai.OpenAI:
        """The official client, signed in with Basic."""
        secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="x", max_retries=0,
            default_headers={"Authorization": f"Basic {secret}", **headers},
        )  # fmt: skip

    def logs(self) -> str:
        return self.stdout.read_text() + self.stderr.read_text()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "worker")}
    subprocess.run([sys.executable, "-m", "zimage_worker", "tiny", str(folder)], env=environ, check=True, timeout=200)
    return folder


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Worker]:
    """The shared process: tests leave it as they found it."""
    made = Worker(tmp_path_factory.mktemp("worker"), tiny_model, ZIMAGE_QUEUE_LENGTH="1")
    made.htpasswd.write_text(SECRET_LINE)
    made.start()
    try:
        yield made.ready()
    finally:
        made.end()


class Gated:
    """A worker that takes passwords, an issuer's tokens and its own, and the files that it reads."""

    def __init__(self, worker: Worker, folder: Path, issuer: Issuer) -> None:
        self.worker, self.issuer = worker, issuer
        self.jwks, self.signing = folder / "jwks.json", folder / "signing"
        self.addresses = (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in itertools.count(1))

    def get(self, path: str = "/v1/models", authorization: str | None = None, **options: Any) -> httpx.Response:
        """From an address of its own unless told otherwise: guesses of one test are no other's."""
        headers = {"X-Forwarded-For": next(self.addresses), **options.pop("headers", {})}
        if authorization is not None:
            headers["Authorization"] = authorization
        return self.worker.api.request(options.pop("method", "GET"), path, headers=headers, **options)

    def bearer(self, token: str, path: str = "/v1/models") -> httpx.Response:
        return self.get(path, f"Bearer {token}".strip())

    def token(self, user: str = USER, password: str = PASSWORD, **fields: str) -> httpx.Response:
        form = {"grant_type": "password", "username": user, "password": password, **fields}
        headers = {"X-Forwarded-For": next(self.addresses)}
        return self.worker.api.post("/token", data=form, headers=headers)


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Gated]:
    """The shared process of mode Any: tests leave its files as they found them."""
    folder, issuer = tmp_path_factory.mktemp("gated"), Issuer()
    made = Worker(
        folder, tiny_model, ZIMAGE_AUTH_MODE="Any", ZIMAGE_JWT_ISSUER=ISSUER, ZIMAGE_JWT_AUDIENCES=f"other,{AUDIENCE}",
        ZIMAGE_JWT_JWKS_FILE=str(folder / "jwks.json"), ZIMAGE_TOKEN_SIGNING_KEY_FILE=str(folder / "signing"),
    )  # fmt: skip
    found = Gated(made, folder, issuer)
    made.htpasswd.write_text(SECRET_LINE)
    found.jwks.write_bytes(issuer.jwks())
    found.signing.write_text("canary-signing-key-0123456789abcdef\n")
    made.start()
    try:
        made.ready()
        yield found
    finally:
        made.end()


@contextmanager
def crew() -> Iterator[Callable[..., Worker]]:
    """Starts processes with the shared one's credentials; ends them all."""
    made: list[Worker] = []

    def make(folder: Path, model: Path, command: list[str] | None = None, **settings: str) -> Worker:
        one = Worker(folder, model, **settings)
        one.command = command or one.command
        one.htpasswd.write_text(SECRET_LINE)
        made.append(one)
        return one.start()

    yield make
    for one in made:
        one.end()


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """A process of one's own, with the shared one's credentials."""
    numbers = itertools.count()
    with crew() as make:
        yield lambda model, *rest, **settings: make(tmp_path / f"worker-{next(numbers)}", model, *rest, **settings)


@pytest.fixture(scope="session")
def make_worker_in() -> Iterator[Callable[..., Worker]]:
    """As make_worker, for fixtures that live longer than a test; the folder comes first."""
    with crew() as make:
        yield make


@pytest.fixture(name="eventually", scope="session")
def eventually_fixture() -> Callable[..., Any]:
    return eventually


@pytest.fixture(name="events", scope="session")
def events_fixture() -> Callable[..., Any]:
    return events
