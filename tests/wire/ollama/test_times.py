from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BadRequest
from cortex.wire.ollama.times import instant, kept_seconds, nanoseconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01T00:00:00.000000Z"), (1_700_000_000.25, "2023-11-14T22:13:20.250000Z")],
)
def test_an_instant_is_in_rfc_3339(seconds: float, text: str) -> None:
    assert instant(seconds) == text


@pytest.mark.parametrize(
    ("milliseconds", "count"), [(0.0, 0), (1.5, 1_500_000), (0.0000004, 0), (60_000.0, 6 * 10**10)]
)
def test_a_span_is_counted_in_nanoseconds(milliseconds: float, count: int) -> None:
    assert nanoseconds(milliseconds) == count


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (300, 300.0),
        (1.5, 1.5),
        (-1, math.inf),
        ("0", 0.0),
        ("0s", 0.0),
        ("5m", 300.0),
        ("+5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("100ms", 0.1),
        ("24h", 86_400.0),
        ("-1m", math.inf),
    ],
)
def test_keep_alive_is_read_as_go_reads_it(keep_alive: float | str | None, seconds: float | None) -> None:
    read = kept_seconds(keep_alive)

    assert read is seconds is None or read == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "-1", "m", "5 m", "5x", "5m ", "forever", "٣m", "1e3s", "--1m", "1m" * 9])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        kept_seconds(text)

    assert caught.value.param == "keep_alive"


@given(st.text(alphabet="0123456789.hmsun+-", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert kept_seconds(text) is not None
    except BadRequest:
        assert text != "0"
