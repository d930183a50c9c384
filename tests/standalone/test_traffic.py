"""What the table of requests does not ask: the firewalls, a new certificate, a restart, /token, guesses."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from edge.client import ALICE, Edge, basic
from standalone.lab import ADMITTED, DMZ, DMZ_INSIDE, GATEWAY, INNER, INSIDE, START_SECONDS, WORKER, Lab, wait
from standalone.places import Place

# Setting up loads torch twice, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(300, func_only=True)

# A packet that is dropped is never answered; who waits this long at these cables waits for ever.
CLOSED_SECONDS = 1.5
OPEN_SECONDS = 30


@pytest.fixture(scope="module")
def edge(lab: Lab) -> Edge:
    return lab.edge()


# --- the firewalls ----------------------------------------------------------------------


@contextlib.contextmanager
def listening(place: Place, *ports: int) -> Iterator[None]:
    """Sockets that anybody could reach, were it not for the rules."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            with place.inside():
                stack.enter_context(socket.create_server(("0.0.0.0", port), backlog=64))
        yield


# From where, to where: what nobody may open. In each place somebody listens.
SHUT = [
    ("client", INNER, 7860), ("client", INNER, 9090), ("client", "10.79.0.2", 9090), ("client", WORKER, 7860),
    ("client", WORKER, 9090), ("dmz", INNER, 9090), ("client", DMZ, 7860), ("client", DMZ, 9090),
    ("container", GATEWAY, 9090), ("container", GATEWAY, 5000), ("container", INNER, 7860),
    ("container", DMZ_INSIDE, 5000), ("container", "10.79.0.1", 5000),
]  # fmt: skip


def reached(lab: Lab, seconds: float) -> list[tuple[str, str, int]]:
    """Which of the ways above are open."""

    def opens(way: tuple[str, str, int]) -> bool:
        name, address, port = way
        return lab.reaches(getattr(lab, name), address, port, seconds=seconds)

    with ThreadPoolExecutor(len(SHUT)) as pool:
        return [way for way, found in zip(SHUT, pool.map(opens, SHUT), strict=True) if found]


# One datagram needs no way back: it shows each direction by itself.
DATAGRAMS = [
    ("container", "dmz", DMZ_INSIDE), ("container", "client", "10.79.0.1"), ("container", "inner", GATEWAY),
    ("client", "container", WORKER),
]  # fmt: skip


def arrived(lab: Lab, seconds: float) -> list[tuple[str, str, str]]:
    """Which of the datagrams arrive."""

    def arrives(way: tuple[int, tuple[str, str, str]]) -> bool:
        number, (sender, receiver, address) = way
        with getattr(lab, receiver).inside():
            there = socket.socket(type=socket.SOCK_DGRAM)
        with getattr(lab, sender).inside():
            here = socket.socket(type=socket.SOCK_DGRAM)
        with there, here, contextlib.suppress(TimeoutError):
            there.bind(("0.0.0.0", 5100 + number))
            there.settimeout(seconds)
            here.sendto(b"x", (address, 5100 + number))
            return bool(there.recv(1))
        return False

    with ThreadPoolExecutor(len(DATAGRAMS)) as pool:
        found = pool.map(arrives, enumerate(DATAGRAMS))
        return [way for way, came in zip(DATAGRAMS, found, strict=True) if came]


def test_only_the_dmz_host_reaches_the_door_and_nothing_leaves_the_worker(lab: Lab) -> None:
    # The ways back that a flat network would have.
    for place in (lab.dmz, lab.client):
        place.run("ip", "route", "replace", "172.31.78.0/29", "via", INNER if place is lab.dmz else "10.79.0.2")
    with listening(lab.inner, 9090, 5000), listening(lab.dmz, 7860, 9090, 5000), listening(lab.client, 5000):
        assert reached(lab, CLOSED_SECONDS) == []
        assert arrived(lab, CLOSED_SECONDS) == []
        assert lab.reaches(lab.dmz, INNER, 7860, seconds=OPEN_SECONDS)
        # Who says that he is the DMZ host hears no answer.
        lab.client.run("ip", "address", "add", f"{DMZ_INSIDE}/32", "dev", "inner0")
        assert not lab.reaches(lab.client, INNER, 7860, source=DMZ_INSIDE, seconds=CLOSED_SECONDS)
        lab.client.run("ip", "address", "del", f"{DMZ_INSIDE}/32", "dev", "inner0")
        # Without the rules all of them are open: it is the rules that close them.
        try:
            for place in (lab.inner, lab.dmz):
                place.run("nft", "flush", "ruleset")
            assert reached(lab, OPEN_SECONDS) == SHUT
            assert arrived(lab, OPEN_SECONDS) == DATAGRAMS
        finally:
            lab.load("inner", lab.inner, "any")
            lab.load("dmz", lab.dmz, "any")
        assert reached(lab, CLOSED_SECONDS) == []


def test_only_the_allowed_ranges_reach_443_and_80(lab: Lab) -> None:
    outside = next(lab.sources)
    assert ADMITTED == "10.77.255.0/24"
    assert lab.reaches(lab.client, DMZ, 443, outside, OPEN_SECONDS)
    try:
        lab.load("dmz", lab.dmz, "narrow")
        for port in (443, 80):
            assert not lab.reaches(lab.client, DMZ, port, outside, CLOSED_SECONDS)
            assert lab.reaches(lab.client, DMZ, port, INSIDE, OPEN_SECONDS)
    finally:
        lab.load("dmz", lab.dmz, "any")


# --- streams and pictures ---------------------------------------------------------------


@contextlib.contextmanager
def stream(edge: Edge, steps: int) -> Iterator[Iterator[str]]:
    """The names of the events of a generation, as they arrive."""
    order = {"prompt": "a red fox", "size": "64x64", "steps": steps, "stream": True, "progress": True}
    about = edge.about("any")
    with (
        edge.client() as client,
        client.stream("POST", edge.url("/v1/images/generations"), auth=ALICE, json=order, **about) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        yield (line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: "))


LEFT = 'zimage_requests_total{outcome="disconnected"}'


def test_who_waits_for_a_picture_and_leaves_frees_the_device(lab: Lab, edge: Edge) -> None:
    """Nothing is sent meanwhile: the end of the connection alone tells, through nginx and the door to the worker."""
    before = lab.metric(LEFT)
    body = json.dumps({"prompt": "a red fox", "size": "64x64", "steps": 1000})
    head = [
        "POST /v1/images/generations HTTP/1.1", f"Host: {edge.hosts['any']}", "Content-Type: application/json",
        f"Content-Length: {len(body)}", f"Authorization: {basic(ALICE).decode()}", "", body,
    ]  # fmt: skip
    with lab.client.inside(), edge.connect("any") as raw:
        raw.sendall("\r\n".join(head).encode())
        wait(lambda: lab.metric("zimage_requests_running") == 1, "the worker is at work")
    wait(lambda: lab.metric(LEFT) == before + 1, "the worker noticed")
    assert lab.metric("zimage_requests_running") == 0


def test_a_stream_arrives_event_by_event_and_who_leaves_frees_the_device(lab: Lab, edge: Edge) -> None:
    before = lab.metric(LEFT)
    with lab.client.inside(), stream(edge, 1000) as names:
        seen = [next(names) for _ in range(3)]
        assert lab.metric("zimage_requests_running") == 1, f"{seen} came with the last"
    wait(lambda: lab.metric(LEFT) == before + 1, "the worker noticed")
    assert lab.metric("zimage_requests_running") == 0


# --- a new certificate ------------------------------------------------------------------


def serial(edge: Edge) -> int:
    """The number of the certificate that is served."""
    with edge.connect("any") as raw:
        found = raw.getpeercert()
    assert found
    return int(str(found["serialNumber"]), 16)


def test_a_renewed_certificate_is_served_after_a_reload_and_no_request_is_dropped(lab: Lab, edge: Edge) -> None:
    statuses: list[int | str] = []
    stop = threading.Event()

    def ask() -> None:
        with lab.client.inside():
            while not stop.is_set():
                try:
                    statuses.append(edge.ask("any", auth=ALICE).status_code)
                except httpx.TransportError as error:
                    statuses.append(repr(error))

    with lab.client.inside():
        before = serial(edge)
    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        with lab.client.inside(), stream(edge, 100) as names:
            next(names)
            asked = len(statuses)
            lab.certify("any")
            lab.reload()
            assert serial(edge) != before
            # A stream that began before goes on to its end.
            assert list(names)[-1] == "image_generation.completed"
        wait(lambda: len(statuses) > asked + 10, "requests after the reload")
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert set(statuses) == {200}


# --- who is let in ----------------------------------------------------------------------


def test_wrong_credentials_are_refused_at_the_edge(lab: Lab, edge: Edge) -> None:
    wrong = [f"Basic {base64.b64encode(pair).decode()}" for pair in (b"alice:canary-wrong", b"bob:x", b":", b"alice")]
    with lab.client.inside():
        for service in ("basic", "any"):
            for header in (*wrong, "Basic", "Basic !", "Digest x", "Bearer", "Bearer x.y.z", edge.token()):
                answer = edge.ask(service, headers={"Authorization": header})
                assert answer.status_code == 401, f"{service}, {header}: {answer.status_code}"
                assert "x-request-id" not in answer.headers
        assert edge.ask("basic", bearer=edge.token()).status_code == 401


def test_a_password_is_changed_for_a_token_and_the_token_opens(lab: Lab, edge: Edge) -> None:
    form = {"grant_type": "password", "username": ALICE[0], "password": ALICE[1]}
    with lab.client.inside():
        given = edge.ask("any", "/token", method="POST", data=form)
        assert given.status_code == 200, given.text
        assert edge.ask("any", bearer=given.json()["access_token"]).status_code == 200
        assert edge.ask("any", "/token", method="POST", data={**form, "password": "canary-wrong"}).status_code == 400
        # Only that path, and where passwords alone are taken not even that.
        assert edge.ask("any", "/v1/models/../token", method="GET").status_code in {401, 405}
        assert edge.ask("basic", "/token", method="POST", data=form).status_code == 401


def test_a_guesser_is_told_to_wait(lab: Lab, edge: Edge) -> None:
    source = next(edge.sources)
    with lab.client.inside():
        answers = [edge.ask("any", auth=("oscar", f"canary-{n}"), source=source) for n in range(30)]
    assert [answer.status_code for answer in answers[:3]] == [401, 401, 401]
    last = answers[-1]
    assert (last.status_code, last.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(last.headers["retry-after"]) >= 1
    assert {answer.status_code for answer in answers} == {401, 429}


def test_refusals_of_the_edge_have_the_clients_shape_and_every_header(lab: Lab, edge: Edge) -> None:
    with lab.client.inside():
        answers = [edge.ask("basic"), edge.ask("any"), edge.ask("narrow", auth=ALICE)]
    for answer in answers:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        for name in ("x-content-type-options", "x-frame-options", "referrer-policy"):
            assert len(answer.headers.get_list(name)) == 1
        assert answer.headers["server"] == "nginx"


def test_the_page_keeps_its_own_policy_and_no_header_stands_twice(lab: Lab, edge: Edge) -> None:
    with lab.client.inside():
        page = edge.ask("any", "/", auth=ALICE)
    assert page.status_code == 200
    assert "script-src" in page.headers["content-security-policy"]
    names = [name.lower() for name, _ in page.headers.multi_items()]
    assert sorted(set(names)) == sorted(names)


def test_the_log_names_only_who_was_let_in_and_holds_no_query(lab: Lab, edge: Edge) -> None:
    with lab.client.inside():
        for service in ("basic", "any"):
            for password in (ALICE[1], "canary-wrong"):
                agent = {"User-Agent": f"log-{service}-{password}"}
                edge.ask(service, "/v1/models?canary-query=1", auth=(ALICE[0], password), headers=agent)
    for service in ("basic", "any"):
        good, bad = (line(lab, f"log-{service}-{password}") for password in (ALICE[1], "canary-wrong"))
        assert re.match(r'\S+ - alice \[.*\] "GET /v1/models HTTP/1.1" 200 ', good), good
        assert re.match(r'\S+ - - \[.*\] "GET /v1/models HTTP/1.1" 401 ', bad), bad
    assert "canary-query" not in lab.access_log() + lab.dmz.path("/var/log/nginx/error.log").read_text()


def line(lab: Lab, agent: str) -> str:
    """The line of one request."""
    found: str = wait(lambda: next((one for one in lab.access_log().splitlines() if agent in one), ""), agent)
    return found


def test_tls_1_2_and_1_3_with_ciphers_that_authenticate(lab: Lab, edge: Edge) -> None:
    host = edge.hosts["any"]
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = edge.context()
        context.minimum_version = context.maximum_version = version
        with (
            lab.client.inside(),
            socket.create_connection((DMZ, 443), 60) as raw,
            context.wrap_socket(raw, server_hostname=host) as wrapped,
        ):
            name, protocol, _ = wrapped.cipher() or ("", "", 0)
        assert re.search("GCM|CHACHA20", name)
        assert protocol == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]


# --- a restart, last: it takes long -------------------------------------------------------


def test_while_the_worker_restarts_everybody_is_told_to_come_again(lab: Lab, edge: Edge) -> None:
    lab.stop_worker()
    with lab.client.inside():
        for service in ("basic", "any"):
            answer = edge.ask(service, auth=ALICE)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert json.loads(answer.text)["error"]["code"] == "not_ready"
            assert "nginx" not in answer.text
        # Where nginx itself checks passwords a stranger is refused all the same; nobody is let in unasked.
        assert edge.ask("basic").status_code == 401
        assert edge.ask("any").status_code == 503
        lab.start_worker()
        statuses: set[int] = set()
        wait(lambda: answered(edge, statuses) == 200, "the worker is back", START_SECONDS)
    assert statuses <= {503, 200}


def answered(edge: Edge, statuses: set[int]) -> Any:
    """Ask once more, and note what is answered on the way."""
    statuses.add(status := edge.ask("any", auth=ALICE).status_code)
    return status
