"""What changes under a running edge: certificate, credentials, workers; through the real Traefik, three ways."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import bcrypt
import httpx
import pytest

from worker.conftest import SECRET_LINE, Worker
from zimage_operator.edge import traefik as usual_naming
from zimage_operator.entrances import Verdict, read_verdict

from . import traefik
from .api_stub import ApiStub
from .client import ALICE, USER, Edge, asking, eventually, serial
from .conftest import OF_TRAEFIK
from .town import Town, with_namespace

pytestmark = pytest.mark.timeout(300, func_only=True)
SECOND = "canary-second-4d1c"
# The worker answers 403 to whom it has seen guess too often, as these tests do while they wait.
REFUSED = {401, 403}


@pytest.fixture(params=OF_TRAEFIK)
def edge(request: pytest.FixtureRequest, traefiks: dict[str, Edge]) -> Edge:
    return traefiks[request.param]


@pytest.fixture
def stub(api: tuple[ApiStub, str]) -> ApiStub:
    return api[0]


def test_a_new_certificate_is_served_and_no_request_is_dropped(edge: Edge, town: Town, stub: ApiStub) -> None:
    before, stop, seen = serial(edge), Event(), list[int]()
    client = Thread(target=lambda: seen.extend(asking(edge, stop)))
    client.start()
    try:
        town.renew(edge.name)
        stub.apply(town.tls_secret(edge.name))
        eventually(lambda: serial(edge) != before, "the new certificate is served")
    finally:
        stop.set()
        client.join()
    assert set(seen) == {200}


def test_credentials_that_are_changed_are_changed_at_the_edge_too(
    edge: Edge, town: Town, stub: ApiStub, workers: dict[str, Worker]
) -> None:
    carol = (f"carol-{edge.name}", SECOND)
    assert edge.ask("basic", auth=carol).status_code in REFUSED
    line = f"{carol[0]}:{bcrypt.hashpw(SECOND.encode(), bcrypt.gensalt(4)).decode()}\n"
    try:
        workers["any"].htpasswd.write_text(line)
        stub.apply(town.users(edge.name, line))
        eventually(lambda: edge.ask("basic", auth=carol).status_code == 200, "the new user is let in")
        eventually(lambda: edge.ask("basic", auth=ALICE).status_code in REFUSED, "the old one no longer is")
    finally:
        workers["any"].htpasswd.write_text(SECRET_LINE)
        stub.apply(town.users(edge.name, SECRET_LINE))
    eventually(lambda: edge.ask("basic", auth=(USER, ALICE[1])).status_code == 200, "and back")


def test_while_no_worker_is_ready_the_answer_is_503_and_names_no_software(
    edge: Edge, town: Town, stub: ApiStub
) -> None:
    """Without Retry-After: Traefik has none to give, and a worker that drains has said its own before."""
    try:
        stub.apply(*town.behind(edge.name, "basic", ready=False))
        # Where the edge asks the worker first, nobody answers it, and nobody gets in.
        closed = {503} if edge.name != "ingress-nginx" else {500, 502, 503}
        answer = eventually(lambda: only(edge.ask("basic", auth=ALICE), closed), "nobody is there")
        assert not re.search(r"\d", answer.headers.get("server", ""))
        assert not re.search(r"traefik|nginx|\d\.\d", answer.text, re.IGNORECASE)
        assert edge.ask("basic").status_code in closed | {401}
    finally:
        stub.apply(*town.behind(edge.name, "basic"))
    eventually(lambda: edge.ask("basic", auth=ALICE).status_code == 200, "the worker is back")


def only(answer, statuses: set[int]):
    return answer if answer.status_code in statuses else None


def test_traefik_with_safe_naming_finds_what_protects_the_route(
    api: tuple[ApiStub, str], town: Town, traefiks: dict[str, Edge], tmp_path: Path
) -> None:
    """The other of its two ways to name a Middleware, on a Traefik of its own."""
    usual = traefiks["traefik"]
    with traefik.running(api[1], town.hosts_file(), tmp_path, "safe") as ports:
        port = ports["websecure"]
        safe = replace(
            usual, name="traefik-safe", https_port=port, http_port=ports["web"], hosts=town.hosts("traefik-safe")
        )
        eventually(lambda: safe.ask("basic").status_code == 401, "it serves")
        assert safe.ask("basic", auth=ALICE).status_code == 200
        assert safe.ask("narrow", auth=ALICE).status_code == 403
        # Named the other way nothing is found, and nobody is let in.
        api[0].apply(*map(with_namespace, usual_naming.routes(town.services["traefik-safe"]["basic"])))
        eventually(lambda: closed(safe), "it is closed")


def closed(edge: Edge) -> bool:
    """Whether nobody answers for the host: not even its certificate is shown, or there is nothing behind it."""
    try:
        return edge.ask("basic", auth=ALICE).status_code == 404
    except httpx.ConnectError:
        return True


def test_the_gateway_says_of_every_route_that_it_takes_it(traefiks: dict[str, Edge], town: Town, stub: ApiStub) -> None:
    """The real controller's words, as the operator reads them."""
    assert traefiks
    for name in town.services["gateway-traefik"]:
        item = {"metadata": {"generation": 1}, "status": stub.statuses["httproutes", "gateway-traefik", name]}
        assert read_verdict(item) == Verdict("accepted")
