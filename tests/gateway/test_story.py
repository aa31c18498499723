"""The line that a request leaves: of what went well in batches, of trouble at once."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from cortex.core import logging as subject
from cortex.core.errors import NoHealthyNode
from cortex.core.log_writer import LineWriter
from cortex.gateway.story import log_answered, log_trouble
from cortex.gateway.trace.record import LEFT
from ended_requests import ended

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written, as JSON."""
    stream = io.StringIO()
    monkeypatch.setattr(subject._state, "writer", LineWriter(stream))
    monkeypatch.setattr(subject._state, "processors", [subject._json])
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_those_that_went_well_are_told_in_a_batch_and_the_others_are_not(written: io.StringIO) -> None:
    log_answered([ended(id="r1"), ended(id="r2", status=LEFT), ended(id="r3", code="stream_error"), ended(id="r4")])

    told = lines(written)
    assert [line["request"] for line in told] == ["r1", "r4"]
    assert [*told[0]][:5] == ["timestamp", "level", "event", "logger", "request"]
    assert (told[0]["prompt_tokens"], told[0]["completion_tokens"], told[0]["reason"]) == (7, 11, "stop")
    assert told[0]["total_seconds"] == 2.0
    assert told[0].keys().isdisjoint({"traceparent", "continued", "error", "code"})


def test_a_line_has_the_moment_at_which_its_request_ended(written: io.StringIO) -> None:
    log_answered([ended(ended=102.0), ended(ended=103.5)])

    first, second = (float(line["timestamp"][-10:-1]) for line in lines(written))
    assert (second - first) % 60 == pytest.approx(1.5, abs=1e-4)


def test_trouble_is_told_with_its_cause(written: io.StringIO) -> None:
    log_trouble(ended(code="no_capacity", status=503, traceparent=PARENT), NoHealthyNode("m is nowhere"))
    log_trouble(ended(status=LEFT), None)

    failed, left = lines(written)
    assert (failed["code"], failed["traceparent"]) == ("no_capacity", PARENT)
    assert "m" in failed["error"]
    assert left["error"].startswith("the client went away")
    assert "code" not in left


def test_every_renderer_sees_the_same_line() -> None:
    with capture_logs() as heard:
        log_answered([ended(id="r1")])

    assert heard[0]["event"] == "request_finished"
    assert heard[0].keys().isdisjoint({"traceparent", "continued"})
