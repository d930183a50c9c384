"""The spliced answer is byte for byte the one that json.dumps would give."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zimage_worker.blobs import BLOB, json_with_blobs


@given(st.lists(st.binary(max_size=200), max_size=4), st.text().filter(lambda text: BLOB not in text))
def test_it_is_what_json_dumps_gives(blobs: list[bytes], text: str) -> None:
    spliced = json_with_blobs({"size": text, "data": [{"b64_json": BLOB, "seed": 1} for _ in blobs], "z": 0}, blobs)
    plain = {"size": text, "data": [{"b64_json": base64.b64encode(b).decode(), "seed": 1} for b in blobs], "z": 0}
    assert spliced == json.dumps(plain).encode()


def test_a_blob_too_many_or_too_few_is_refused() -> None:
    for count in (0, 2):
        with pytest.raises(ValueError):
            json_with_blobs({"b64_json": BLOB}, [b"x"] * count)
