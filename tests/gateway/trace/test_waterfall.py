"""The spans of a request cover its time, in order."""

from __future__ import annotations

import pytest

from cortex.gateway.trace.kept import kept
from cortex.gateway.trace.loads import Load, Step
from cortex.gateway.trace.record import LEFT, Attempt, Record
from cortex.gateway.trace.waterfall import Span, spans
from ended_requests import ended


def told(record: Record) -> list[Span]:
    return spans(kept(record, 0.0, ()))


def test_an_answer_is_told_without_a_gap() -> None:
    top = [span for span in told(ended()) if span.depth == 0]
    ends = [span.at + span.seconds for span in top]

    assert [span.name for span in top] == ["accepted", "waiting", "node's queue", "prefill", "decode", "last byte"]
    assert top[0].at == 0
    assert ends[-1] == pytest.approx(2.0)
    assert [span.at for span in top[3:]] == pytest.approx(ends[2:-1])


def test_a_load_is_part_of_the_waiting_and_its_stages_are_part_of_the_load() -> None:
    trace = kept(ended(), 0.0, ())
    steps = [Step("eviction", 0.1, 0.1, "small"), Step("load", 0.2, 0.2), Step("load: weights", 0.2, 0.2)]
    trace.loads = [Load("a", "request", "fits", 0.1, 0.3, steps)]
    found = [(span.name, span.depth) for span in spans(trace)][1:6]

    assert found == [("waiting", 0), ("cold start", 1), ("eviction", 2), ("load", 2), ("weights", 3)]


def test_attempts_that_failed_come_first() -> None:
    failed = Attempt("b", 100.0, 100.01, 100.05, "upstream_timeout", "")

    assert [span.name for span in told(ended(failures=[failed]))][:4] == [
        *("waiting", "failed attempt", "looking again", "waiting"),
    ]


def test_a_refusal_ends_in_the_waiting_and_says_why() -> None:
    last = told(ended(trailer=None, sent_at=0.0, status=503, code="no_feasible_node", ended=100.4))[-1]

    assert last.name == "waiting"
    assert "no_feasible_node" in last.note


def test_one_that_never_asked_for_a_replica_was_refused_at_the_door() -> None:
    record = ended(asked_at=0.0, chosen_at=0.0, wait_seconds=0.0, sent_at=0.0, trailer=None, status=401, code="bad_key")

    assert [(span.name, span.seconds) for span in told(record)] == [("accepted", 2.0)]


def test_a_client_that_left_is_told_with_what_had_come() -> None:
    last = told(ended(trailer=None, status=LEFT, events=4))[-1]

    assert last.name == "on the node"
    assert "4 events" in last.note
    assert "left" in last.note
