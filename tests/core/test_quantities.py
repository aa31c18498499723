from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.quantities import bytes_of, seconds_of


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 90.0),
        (0.5, 0.5),
        (-1, -1.0),
        ("90", 90.0),
        ("90s", 90.0),
        ("250ms", 0.25),
        ("15m", 900.0),
        ("15min", 900.0),
        ("1.5h", 5400.0),
        (" 2 d ", 172_800.0),
        ("0", 0.0),
    ],
)
def test_a_duration_is_read_in_seconds(value: float | str, seconds: float) -> None:
    assert seconds_of(value) == seconds


NO_DURATIONS = ("", "s", "-5m", "+5m", "5 minutes", "1h30m", "5M", "1e3", "1_000", ".5s", "5.", "5m\nx", "nan", "inf")


@pytest.mark.parametrize("value", [*NO_DURATIONS, "9" * 400, math.nan, math.inf, -math.inf])
def test_what_is_no_duration_is_refused_with_examples(value: float | str) -> None:
    with pytest.raises(ValueError, match='expected seconds, or text such as "90s", "15m" or "2h"'):
        seconds_of(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (24, 24 << 20),
        ("24", 24 << 20),
        ("0", 0),
        ("512b", 512),
        ("24 GB", 24 * 10**9),
        ("24g", 24 * 10**9),
        ("12GiB", 12 << 30),
        ("12gi", 12 << 30),
        ("1.5 TiB", 3 << 39),
        ("0.1MB", 100_000),
        (" 64 kib ", 64 << 10),
        ("16777217.000001TiB", (16777217 << 40) + 1099512),
    ],
)
def test_a_size_is_read_in_bytes(value: int | str, size: int) -> None:
    assert bytes_of(value) == size


@pytest.mark.parametrize("value", ["", "GB", "-1GB", "24 GBit", "24 XB", "1e9", "24 G B", "1,5GB", "24GB\nx", "nan"])
def test_what_is_no_size_is_refused_with_examples(value: str) -> None:
    with pytest.raises(ValueError, match='expected MiB, or text such as "24 GB" or "12GiB"'):
        bytes_of(value)


@given(st.text(max_size=20))
def test_any_other_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for read in (seconds_of, bytes_of):
        with suppress(ValueError):
            assert 0 <= read(text) < math.inf


def test_however_many_digits_there_are_a_size_is_finite_or_refused() -> None:
    assert bytes_of("9" * 400 + "GB") == int("9" * 400) * 10**9
    with pytest.raises(ValueError):
        bytes_of("9" * 5000 + "GB")


@given(
    st.integers(min_value=0, max_value=10**15), st.sampled_from(["", "b", "kb", "KiB", "MB", "mib", "G", "Gi", "TiB"])
)
def test_a_unit_means_the_same_in_every_spelling(count: int, unit: str) -> None:
    assert bytes_of(f"{count}{unit}") == bytes_of(f"{count} {unit.upper()}") == bytes_of(f"{count}.0{unit.lower()}")
