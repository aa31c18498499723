"""A trace is read as it comes, and a wrong line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.sim import trace
from cortex.sim.trace import Arrival, count_lines, in_order, read_trace, write_trace

LINE = b'{"at": 1.5, "model": "qwen3", "prompt_tokens": 10, "completion_tokens": 2}'


def line(at: object, **keys: object) -> bytes:
    import json

    return json.dumps({"at": at, "model": "m", "prompt_tokens": 1, "completion_tokens": 1, **keys}).encode()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Session, stream and all."""
    arrivals = [
        Arrival(at=0.0, model="a", prompt_tokens=1, completion_tokens=2),
        Arrival(at=0.5, model="b", prompt_tokens=3, completion_tokens=0, session="s", stream=False),
    ]

    assert write_trace(tmp_path / "t.jsonl", arrivals) == 2

    assert list(read_trace(tmp_path / "t.jsonl")) == arrivals
    assert count_lines(tmp_path / "t.jsonl") == 2


def test_seconds_count_from_the_start_and_dates_from_the_first() -> None:
    """Seconds are as they are; a recording begins when its first request came."""
    assert [a.at for a in in_order([line(5), line(7.5)], "t")] == [5, 7.5]
    dates = [line("2026-05-04T12:00:00Z"), line("2026-05-04T14:00:01.5+02:00")]
    assert [a.at for a in in_order(dates, "t")] == [0.0, 1.5]


def test_lines_a_little_out_of_order_are_put_in_order() -> None:
    """A recorder writes a line when the answer ends, not when the request came."""
    assert [a.at for a in in_order([line(3), b"\n", line(1), line(2)], "t")] == [1, 2, 3]


def test_lines_far_out_of_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is never held whole, so that it cannot be sorted whole."""
    monkeypatch.setattr(trace, "WINDOW", 2)

    with pytest.raises(ConfigError, match=r"^t:5: at: comes before"):
        list(in_order([line(1), line(2), line(3), line(4), line(0)], "t"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (b"{", "t:2: "),
        (b'\xff{"at": 1}', "t:2: "),
        (b'{"at": 1}', "t:2: Object missing required field `model`"),
        (line(1, prompt_tokens="x"), r"t:2: Expected `int`, got `str` - at `\$.prompt_tokens`"),
        (line(1, prompt_tokens=-1), r"t:2: Expected `int` >= 0 - at `\$.prompt_tokens`"),
        (line(1, sesion="a"), "t:2: Object contains unknown field `sesion`"),
        (line(-1), "t:2: at = -1: expected seconds since the start"),
        (line(1_700_000_000), "t:2: at = .*: expected seconds since the start, at most ten years, or a date"),
        (line("2026-05-04T12:00:00Z"), "t:2: at: seconds in one line and a date in another"),
    ],
)
def test_a_wrong_line_is_named(wrong: bytes, message: str) -> None:
    """File, number of the line, and what is wrong with which key."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        list(in_order([LINE, wrong], "t"))


def test_a_date_needs_its_zone() -> None:
    """What is local to nobody is no time."""
    with pytest.raises(ConfigError, match=r"^t:1: at: a time without its zone"):
        list(in_order([line("2026-05-04T12:00:00")], "t"))


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    """For reading, for counting, for writing."""
    with pytest.raises(ConfigError, match="No such file"):
        list(read_trace(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="No such file"):
        count_lines(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="No such file"):
        write_trace(tmp_path / "none" / "t.jsonl", [])
