"""No reason without a test that causes it: the table of reasons.py and the code say the same."""

from __future__ import annotations

import itertools

from reasons import CONTROL_PLANE, ELSEWHERE, HUB, LISTED, NODE, WALLS, said_by_code


def test_every_reason_of_the_code_is_in_the_table_and_no_other() -> None:
    assert said_by_code() == LISTED


def test_each_reason_stands_in_one_group() -> None:
    for one, other in itertools.combinations((CONTROL_PLANE, WALLS, NODE, HUB, set(ELSEWHERE)), 2):
        assert not one & other
