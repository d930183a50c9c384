"""Some at once, then one in a while; and each thing for itself."""

from __future__ import annotations

import pytest

from zimage_operator.pace import Pace


def test_some_at_once_then_one_in_a_while() -> None:
    pace = Pace(burst=3, every_seconds=2.0)
    assert [pace.wait("a", 100.0) for _ in range(3)] == [0, 0, 0]
    assert pace.wait("a", 100.5) == pytest.approx(1.5)
    assert pace.wait("b", 100.5) == 0
    assert pace.wait("a", 102.0) == 0
    assert pace.wait("a", 102.0) == pytest.approx(2.0)


def test_a_hot_loop_gets_no_more_than_its_rate_and_rest_gives_the_burst_back() -> None:
    pace = Pace(burst=10, every_seconds=1.0)
    passed = [now for now in range(6000) if pace.wait("a", now / 100) == 0]
    assert 60 <= len(passed) <= 70
    assert [pace.wait("a", 1000.0) for _ in range(10)] == [0.0] * 10
    pace.forget("a")
    assert pace.full == {}
