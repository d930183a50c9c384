"""The table of requests, by the rendered nginx.conf and the rendered firewalls."""

from __future__ import annotations

import pytest

from edge.client import Edge
from edge.requests_table import ROWS, check
from standalone.lab import Lab

# Setting up loads torch twice, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(300, func_only=True)

# What comes from behind nginx.
GIVEN = {
    "right_password": "worker",
    "right_token": "worker",
    "picture": "worker",
}
# Asked in test_traffic.py instead: the table's first version waits there for what a stream without `progress` never
# sends, and hands the HTTP client a header that it refuses to send.
APART: set[str] = set()


@pytest.fixture(scope="module")
def standalone_edge(lab: Lab) -> Edge:
    return lab.edge()


@pytest.mark.parametrize("row", [row for row in ROWS if row not in APART])
def test_row(lab: Lab, standalone_edge: Edge, row: str) -> None:
    with lab.client.inside():
        check(standalone_edge, row, GIVEN.get(row, "edge"))
