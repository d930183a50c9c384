"""What the operator refuses for its GPU memory is what `zimage-worker plan` refuses, and nothing else."""

from __future__ import annotations

import itertools
import json
import re
from math import isqrt
from typing import Any

import pytest

from support import smallest
from zimage_operator import memory_plan as copied
from zimage_operator.children.configmap import settings as configured
from zimage_operator.errors import DoesNotFit
from zimage_operator.quantities import quantity
from zimage_operator.spec import LEAST_PIXELS, parse
from zimage_worker.__main__ import main
from zimage_worker.engines.prompts import TOKENS_MAX
from zimage_worker.memory_plan import largest_work
from zimage_worker.settings import parse as read

MEMORY = ("8Gi", "12884901888", "13Gi", "16Gi", "20G", "24Gi", "47.5Gi", ".08Ti")
SIDES = (256, 512, 1024, 2048, 4096)


def service(memory: str, pixels: int) -> dict[str, Any]:
    return smallest(gpu={"memory": memory}, generation={"maxPixels": pixels})


def planned(capsys: pytest.CaptureFixture[str], gpu_bytes: int, side: int) -> tuple[int, dict[str, Any]]:
    """The worker's own answer, by its command, for what it would plan at load."""
    size = ["--size", f"{side}x{side}", "--guided", "--prompt-tokens", str(TOKENS_MAX)]
    code = main(["plan", "--gpu-memory", str(gpu_bytes), "--json", *size])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("memory", "side"), list(itertools.product(MEMORY, SIDES)))
def test_both_refuse_the_same(capsys: pytest.CaptureFixture[str], memory: str, side: int) -> None:
    gpu_bytes = int(quantity(memory))
    code, answer = planned(capsys, gpu_bytes, side)
    if code == 0:
        values = configured(parse(service(memory, side * side)))
        # Whatever form it was written in, the worker plans with this very number.
        assert read(values).gpu_memory_bytes == gpu_bytes
        return
    with pytest.raises(DoesNotFit) as refused:
        parse(service(memory, side * side))
    largest = answer["largestPixelsOfAnyStrategy"]
    if largest < LEAST_PIXELS:
        found = re.search(r"use a GPU with ([0-9.]+) GiB or more", str(refused.value))
        assert found
        # What it says to buy is enough.
        enough = int((float(found[1]) + 0.05) * copied.GIB)
        assert planned(capsys, enough, isqrt(LEAST_PIXELS))[0] == 0
        return
    assert f"write at most {largest} ({isqrt(largest)}x{isqrt(largest)})" in str(refused.value)
    # What it says to write is taken, and is the most: the next size is not.
    parse(service(memory, largest))
    with pytest.raises(DoesNotFit):
        parse(service(memory, (isqrt(largest) + 16) ** 2))


def test_the_grid_has_all_three_answers() -> None:
    """Or the test above asserts less than it seems to."""
    said = []
    for memory, side in itertools.product(MEMORY, SIDES):
        try:
            said.append(parse(service(memory, side * side)) and "")
        except DoesNotFit as error:
            said.append(str(error))
    kinds = {("write at most" in text, "use a GPU" in text) for text in said}
    assert kinds == {(False, False), (True, False), (False, True)}


def test_the_longest_prompt_of_the_plan_is_the_one_that_is_served() -> None:
    assert copied.TOKENS_MAX == TOKENS_MAX == largest_work(LEAST_PIXELS).prompt_tokens


def test_where_nothing_is_stated_nothing_is_refused_and_the_worker_looks_for_itself() -> None:
    values = configured(parse(smallest(generation={"maxPixels": 16777216})))
    assert "ZIMAGE_GPU_MEMORY" not in values
