"""What does not fit the GPU is refused with what does, by the closed form that the worker plans with."""

from __future__ import annotations

import re
from typing import Any

import pytest

from support import smallest
from zimage_operator.children.configmap import settings
from zimage_operator.errors import InvalidSpec
from zimage_operator.quantities import quantity
from zimage_operator.spec import parse

FITS = [("24Gi", 1048576), ("16Gi", 1048576), ("80Gi", 16777216), ("25769803776", 1048576)]
TOO_LARGE = [("16Gi", 4194304), ("14Gi", 16777216), ("24G", 16777216), ("24Gi", 16777216)]
TOO_SMALL = ["12Gi", "4Gi", "1", "1Mi", "12500M"]


def asked(memory: str, pixels: int, **gpu: Any) -> dict[str, Any]:
    return smallest(gpu={"memory": memory, **gpu}, generation={"maxPixels": pixels})


@pytest.mark.parametrize(("memory", "pixels"), FITS)
def test_what_fits_is_taken_and_the_worker_is_told(memory: str, pixels: int) -> None:
    assert settings(parse(asked(memory, pixels)))["ZIMAGE_GPU_MEMORY"] == str(int(quantity(memory)))


@pytest.mark.parametrize(("memory", "pixels"), TOO_LARGE)
def test_the_advice_is_the_largest_that_fits(memory: str, pixels: int) -> None:
    with pytest.raises(InvalidSpec, match=r"^spec\.generation\.maxPixels: .* do not fit gpu\.memory") as refused:
        parse(asked(memory, pixels))
    advised = re.search(r"write at most (\d+)", str(refused.value))
    assert advised
    parse(asked(memory, int(advised[1])))
    # One row of the grid more is too much.
    with pytest.raises(InvalidSpec):
        parse(asked(memory, int((int(advised[1]) ** 0.5 + 16) ** 2)))


@pytest.mark.parametrize("memory", TOO_SMALL)
def test_where_nothing_fits_the_advice_is_the_least_memory(memory: str) -> None:
    with pytest.raises(InvalidSpec, match=r"^spec\.gpu\.memory: ") as refused:
        parse(asked(memory, 65536))
    advised = re.search(r"write at least (\d+)Gi", str(refused.value))
    assert advised
    parse(asked(f"{advised[1]}Gi", 65536))
    with pytest.raises(InvalidSpec):
        parse(asked(f"{int(advised[1]) - 1}Gi", 65536))


def test_without_its_size_nothing_is_held_against_it_and_without_a_gpu_it_has_none() -> None:
    unset = parse(smallest(generation={"maxPixels": 16777216}))
    assert "ZIMAGE_GPU_MEMORY" not in settings(unset)
    with pytest.raises(InvalidSpec, match=r"remove it, or write gpu\.count: 1"):
        parse(asked("1Gi", 65536, count=0))
