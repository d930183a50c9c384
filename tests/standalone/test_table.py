"""The table of requests, by the rendered nginx.conf and the rendered firewalls."""

from __future__ import annotations

import pytest

from edge.client import Edge
from edge.requests_table import ROWS, check
from standalone.lab import Lab

# Setting up loads torch twice, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(300, func_only=True)

# nginx gives them all: the worker answers, and what the client meets is nginx's doing.
GIVEN: dict[str, str] = {}


@pytest.fixture(scope="module")
def standalone_edge(lab: Lab) -> Edge:
    return lab.edge()


@pytest.mark.parametrize("row", list(ROWS))
def test_row(lab: Lab, standalone_edge: Edge, row: str) -> None:
    with lab.client.inside():
        check(standalone_edge, row, GIVEN.get(row, "edge"))
