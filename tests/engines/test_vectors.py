from __future__ import annotations

import base64
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BadRequest
from cortex.engines.vectors import encoded, shortened


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.integers(1, 20))
def test_a_shortened_vector_points_the_same_way_and_has_length_one(vector: list[float], dimensions: int) -> None:
    if dimensions >= len(vector):
        return

    short = shortened(vector, dimensions)

    length = math.sqrt(sum(value * value for value in vector[:dimensions]))
    assert len(short) == dimensions
    assert [value * (length or 1.0) for value in short] == pytest.approx(vector[:dimensions], abs=1e-9)


@pytest.mark.parametrize("dimensions", [None, 2])
def test_a_vector_of_the_right_size_is_left_as_it_is(dimensions: int | None) -> None:
    assert shortened([3.0, 4.0], dimensions) == [3.0, 4.0]


def test_a_vector_is_never_made_longer() -> None:
    with pytest.raises(BadRequest, match="this model has 2, not 3") as caught:
        shortened([3.0, 4.0], 3)

    assert caught.value.param == "dimensions"


def test_base64_is_of_floats_as_the_sdks_read_them() -> None:
    text = encoded([0.5, -2.0], "base64")

    assert struct.unpack("<2f", base64.b64decode(str(text))) == (0.5, -2.0)
    assert encoded([0.5], "float") == encoded([0.5], None) == [0.5]
