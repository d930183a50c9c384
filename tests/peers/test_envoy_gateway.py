"""The table of requests through the real Envoy, which the real Envoy Gateway tells what the operator has written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from cluster.programs import Programs
from edge.client import ALICE, Edge, asking, serial
from edge.client import eventually as answered
from edge.conftest import working
from edge.given import GIVEN
from edge.requests_table import ROWS, check
from edge.town import Town
from issuer import Issuer
from laws import conditions, wait_for
from standalone.places import Place
from support import Operator, claim, in_force, mutation
from worker.conftest import Worker

from .envoy_gateway import CONTROLLER, PORTS, EnvoyGateway, entrance

pytestmark = [pytest.mark.usefixtures("inside"), pytest.mark.timeout(300, func_only=True)]
NAME = "gateway-envoy"
# An address of the place at which nothing listens.
NOBODY = "10.77.0.200"
GATEWAY = {"parentRef": {"name": "edge", "sectionName": "https"}}


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    return Town(tmp_path_factory.mktemp("town"), {NAME: (CONTROLLER, GATEWAY)}, "10.77.0")


@pytest.fixture(scope="module")
def workers(
    place: Place, town: Town, issuer: Issuer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Worker]]:
    with ExitStack() as ends:
        with place.inside():
            made = ends.enter_context(working(town, issuer, tiny_model, tmp_path_factory, asked=True))
        yield made


@pytest.fixture(scope="module")
def services(place: Place, operator: Operator, town: Town, workers: dict[str, Worker], programs: Programs) -> Town:
    """Both programs run, and the operator has published all services."""
    cluster = operator.cluster
    gateway = EnvoyGateway(cluster, programs)
    with place.inside():
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}})
        gateway.start()
        cluster.apply(town.tls_secret(NAME), *entrance(NAME, f"{NAME}.example.org"))
        at_home(cluster, town)
        for body in town.bodies(NAME).values():
            cluster.apply({**body, "spec": {**body["spec"], "gpu": {"count": 0}}})
        gateway.start_envoy("edge", NAME)
        for name in town.services[NAME]:
            wait_for(cluster, NAME, "Ready", name=name, seconds=120)
    return town


def at_home(cluster: ControlPlane, town: Town) -> None:
    """Give the pods of each service the address of its worker."""
    claim(cluster, NAME)
    limited = 'object.metadata.?labels["app.kubernetes.io/instance"].orValue("") == "limited"'
    address = f'{limited} ? "{town.addresses["limited"]}" : "{town.addresses["any"]}"'
    # What a test has written since stays.
    address = f'object.metadata.?annotations[?"fakenode/address"].orValue({address})'
    path = "/metadata/annotations/fakenode~1address"
    cluster.apply(
        *mutation(NAME, NAME, ("", "v1", "pods"), f'[JSONPatch{{op: "add", path: "{path}", value: {address}}}]')
    )
    in_force(cluster, NAME, town.addresses["any"])


@pytest.fixture(scope="module")
def edge(place: Place, services: Town, workers: dict[str, Worker], issuer: Issuer, programs: Programs) -> Edge:
    made = Edge(
        name=NAME, address="127.0.0.1", https_port=PORTS["websecure"], http_port=PORTS["web"], ca=services.pki.ca_crt,
        hosts=services.hosts(NAME), token=issuer.token, edge_log=(programs.directory / "envoy.log").read_text,
        worker_log=workers["any"].stdout.read_text, metric=workers["any"].metric,
        redirects=frozenset({301, 307, 308}), refuses_underscores=True,
    )  # fmt: skip
    with place.inside():
        for name in made.hosts:
            answered(lambda name=name: made.ask(name).status_code in {401, 403}, f"{name} is served")
    return made


@pytest.mark.parametrize("row", ROWS)
def test_a_row(edge: Edge, row: str) -> None:
    check(edge, row, GIVEN[NAME].get(row, "edge"))


def accepted(item: dict[str, Any]) -> list[str]:
    """The conditions under `parents` and `ancestors` that are not as they should be; kstatus does not look there."""
    places = [*item["status"].get("parents", ()), *item["status"].get("ancestors", ())]
    assert places, f"nobody has answered for {item['kind']} {item['metadata']['name']}"
    told = [one for place in places for one in place["conditions"]]
    assert {"Accepted"} <= {one["type"] for one in told}
    return [f"{one['type']}: {one['message']}" for one in told if one["status"] != "True"]


def test_envoy_gateway_accepts_every_object(edge: Edge, operator: Operator) -> None:
    cluster = operator.cluster
    told = {one["type"]: one["status"] for one in cluster.get("gateway", "edge", "-n", NAME)["status"]["conditions"]}
    assert told["Programmed"] == "True", told
    kinds = ("httproutes", "securitypolicies", "backendtrafficpolicies")
    for kind in kinds:
        items = cluster.get(kind, "-n", NAME)["items"]
        assert len(items) >= len(edge.hosts), kind
        assert {item["metadata"]["name"]: accepted(item) for item in items} == {
            item["metadata"]["name"]: [] for item in items
        }
    for name in edge.hosts:
        assert conditions(cluster, NAME, name)["IngressReady"]["reason"] == "Published"


def test_who_guesses_is_refused_alone(edge: Edge) -> None:
    """The worker that Envoy asks hears whose guess it was, or the first stranger would lock out everybody."""
    guesser, numbers = next(edge.sources), itertools.count()

    def guess(source: str | None) -> int:
        return edge.ask("basic", auth=("bob", f"canary-wrong-{next(numbers)}"), source=source).status_code

    answered(lambda: guess(guesser) == 403, "the guesser is refused")
    assert guess(next(edge.sources)) == 401
    assert edge.ask("basic", auth=ALICE).status_code == 200


def test_a_new_certificate_is_served_and_no_request_is_dropped(edge: Edge, operator: Operator, services: Town) -> None:
    before, stop, seen = serial(edge), Event(), list[int]()
    client = Thread(target=lambda: seen.extend(asking(edge, stop)))
    client.start()
    try:
        services.renew(NAME)
        operator.cluster.apply(services.tls_secret(NAME))
        answered(lambda: serial(edge) != before, "the new certificate is served")
    finally:
        stop.set()
        client.join()
    assert set(seen) == {200}


def test_while_no_worker_answers_it_is_503_and_names_no_software(edge: Edge, operator: Operator) -> None:
    """Without Retry-After: Envoy has none to give, and a worker that drains has said its own before.

    At the pod's new address nobody listens, as while a worker starts. That it is not ready as well would not do: of
    workers of whom none is ready Envoy goes on to ask those that are not.
    """
    pods = ("-n", NAME, "annotate", "--overwrite", "pods", "-l", "app.kubernetes.io/instance=basic")
    home = operator.cluster.get("pods", "-n", NAME, "-l", "app.kubernetes.io/instance=basic")["items"][0]
    try:
        operator.cluster.kubectl(*pods, f"fakenode/address={NOBODY}")
        answered(lambda: edge.ask("basic", auth=ALICE).status_code == 503, "nobody is there")
        for answer in (edge.ask("basic", auth=ALICE), edge.ask("basic")):
            assert answer.status_code == 503
            assert not re.search(r"\d", answer.headers.get("server", ""))
            assert not re.search(r"envoy|\d\.\d", answer.text, re.IGNORECASE)
    finally:
        operator.cluster.kubectl(*pods, f"fakenode/address={home['status']['podIP']}")
    answered(lambda: edge.ask("basic", auth=ALICE).status_code == 200, "the worker is back")
