"""A recording has what came since it began, a line a request, in the gateway's time, and says what it has not."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from cortex.cli.failures import Failure
from cortex.cli.fleet_client import Entry
from cortex.cli.recording import Recorder, Recording, duration

from .conftest import Answer, CannedGateway

NOON = 1_760_000_000.0


def request(arrived: float, seconds: float = 1.0, **changed: Any) -> dict[str, Any]:
    base = {
        "seq": 7,
        "kind": "request",
        "time": arrived + seconds,
        "arrived": arrived,
        "model": "qwen3",
        "node": "beast",
    }
    counted = {"prompt_tokens": 10, "completion_tokens": 3, "session": None, "stream": True, "status": 200}
    return {**base, **counted, "seconds": seconds, **changed}


def entry(arrived: float, seconds: float = 1.0) -> Entry:
    return Entry("request", arrived + seconds, "qwen3", arrived, 10, 3)


def told(*entries: dict[str, Any]) -> Answer:
    return 200, b": keep-alive\n\n" + b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in entries)


def recorded(output: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


class Time:
    """A clock that goes on while somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def read(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_a_line_has_what_a_replay_needs_and_no_more() -> None:
    output = io.BytesIO()
    recording = Recording(output, began=100.0)

    recording.take(entry(NOON + 4.0, seconds=1.0), now=105.0)

    assert recorded(output) == [
        {
            "at": 4.0,
            "time": "2025-10-09T08:53:24.000Z",
            "model": "qwen3",
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "session": None,
            "stream": False,
        }
    ]


def test_the_beginning_is_reckoned_in_the_gateway_s_time() -> None:
    """Its clock is years behind ours, and answers end in another order than their requests came."""
    output = io.BytesIO()
    recording = Recording(output, began=100.0)

    recording.take(entry(2.0, seconds=8.0), now=110.0)
    recording.take(entry(1.0, seconds=11.0), now=112.0)

    assert [line["at"] for line in recorded(output)] == [2.0, 1.0]


def test_what_came_before_the_beginning_is_left_out() -> None:
    output = io.BytesIO()
    recording = Recording(output, began=100.0)

    recording.take(entry(NOON - 5.0, seconds=6.0), now=101.0)

    assert recorded(output) == []
    assert recording.requests == 0


def test_other_events_are_no_requests_and_missed_ones_are_counted() -> None:
    output = io.BytesIO()
    recording = Recording(output, began=100.0)

    recording.take(Entry("planned", NOON), now=101.0)
    recording.take(Entry("missed", NOON, count=12), now=101.0)

    assert recorded(output) == []
    assert recording.summary(101.0).endswith("12 missed, as they came faster than they could be sent here")


def test_a_gateway_that_restarts_is_waited_for_and_the_gap_told(
    gateway: CannedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers["/fleet/events"] = [
        told(request(NOON, seconds=0, session="ab12")),
        (503, b'{"error":{"message":"shutting down"}}'),
        told(request(NOON + 2, seconds=0)),
    ]
    output, time = io.BytesIO(), Time()
    recorder = Recorder(gateway.url, output, time.read, time.pause)

    recorder.run(seconds=2.5)

    assert [(line["at"], line["session"]) for line in recorded(output)] == [(0.0, "ab12"), (2.0, None)]
    assert recorder.summary() == "2 requests in 3 s, 1 gap while the gateway was away"
    stderr = capsys.readouterr().err
    assert "has stopped telling); waiting for it" in stderr
    assert "the gateway is back; 2 s are not in the trace" in stderr


def test_a_gateway_that_was_never_there_is_an_error() -> None:
    recorder = Recorder("http://127.0.0.1:1", io.BytesIO())

    with pytest.raises(Failure, match=r"no gateway answers at http://127\.0\.0\.1:1"):
        recorder.run(None)


def test_a_refusal_is_not_waited_out(gateway: CannedGateway) -> None:
    gateway.answers["/fleet/events"] = (403, b'{"error":{"message":"an admin key is needed"}}')

    with pytest.raises(Failure, match="an admin key is needed"):
        Recorder(gateway.url, io.BytesIO()).run(None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (60, "1m 00s"), (3599, "59m 59s"), (3720, "1h 02m")]
)
def test_durations_are_read_by_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
