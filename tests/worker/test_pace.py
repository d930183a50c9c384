from __future__ import annotations

import json

import pytest

from zimage_worker.images import ImageOrder, parse_order
from zimage_worker.pace import SIZES_MAX, Pace
from zimage_worker.settings import Limits


def order(**fields: object) -> ImageOrder:
    return parse_order(json.dumps({"prompt": "x", **fields}).encode(), "", Limits(2**20, 1000, 4))


def test_nothing_is_claimed_before_anything_is_known() -> None:
    assert Pace().seconds(order()) == 0


def test_a_size_that_was_seen_is_told_from_itself() -> None:
    pace = Pace()
    pace.learn(order(size="64x64", n=2), [9.0, 0.1, 0.1, 0.1], 1.0)
    assert pace.seconds(order(size="64x64", n=2, steps=10)) == pytest.approx(2 * (10 * 0.1 + 0.5))
    pace.learn(order(size="64x64"), [0.2], 0.5)
    assert pace.step_seconds(order(size="64x64")) == pytest.approx(0.12)


def test_an_unseen_size_is_told_from_the_largest_and_never_from_a_tiny_one() -> None:
    pace = Pace()
    pace.learn(order(size="512x512"), [0.4, 0.1], 0.2)
    # A step of 16 x 16 is all overhead: scaled up it would be 25 s.
    pace.learn(order(size="16x16"), [0.1], 0.01)
    assert pace.step_seconds(order(size="256x256")) == pytest.approx(0.025)
    assert pace.step_seconds(order(size="512x512", guidance_scale=1)) == pytest.approx(0.2)


def test_its_memory_is_bounded() -> None:
    pace = Pace()
    for number in range(1, 63):
        for guidance in (0, 1):
            pace.learn(order(size=f"{number * 16}x16", guidance_scale=guidance), [0.1], 0)
    assert len(pace.known) == SIZES_MAX
