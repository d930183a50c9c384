"""The table of requests, through every edge, to a real worker."""

from __future__ import annotations

import pytest

from support import ROOT

from . import smuggled
from .client import Edge
from .conftest import OF_NGINX
from .given import GIVEN, table
from .requests_table import ROWS, check, title

# The time limit is for the row: the first one waits for all programs.
pytestmark = pytest.mark.timeout(300, func_only=True)
# Envoy is one of the peers: tests/peers.
EDGES = [name for name in GIVEN if name != "gateway-envoy"]


@pytest.fixture(params=EDGES)
def edge(request: pytest.FixtureRequest) -> Edge:
    return request.getfixturevalue("nginxes" if request.param in OF_NGINX else "traefiks")[request.param]


@pytest.mark.parametrize("row", ROWS)
def test_a_row(edge: Edge, row: str) -> None:
    check(edge, row, GIVEN[edge.name].get(row, "edge"))


def test_the_document_is_what_was_tested() -> None:
    titles = {row: title(row) for row in ROWS}
    assert table(titles) in (ROOT / "docs" / "edges.md").read_text()


def test_the_hidden_requests_are_many_and_each_bears_its_own_name_once() -> None:
    cases = smuggled.variants("here", b"a.example.org", b"Basic x")
    assert len(set(cases.values())) == len(cases) >= 330
    assert all(data.count(name.encode() + b"\r") == 1 for name, data in cases.items())
