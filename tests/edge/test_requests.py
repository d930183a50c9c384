"""The table of requests, through every edge, to a real worker."""

from __future__ import annotations

import pytest

from .client import Edge
from .given import GIVEN
from .requests_table import ROWS, check

EDGES = list(GIVEN)


@pytest.fixture(params=EDGES)
def edge(request: pytest.FixtureRequest) -> Edge:
    return request.getfixturevalue("traefiks")[request.param]


@pytest.mark.parametrize("row", ROWS)
def test_a_row(edge: Edge, row: str) -> None:
    check(edge, row, GIVEN[edge.name].get(row, "edge"))
