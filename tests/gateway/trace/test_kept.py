"""What is kept of a request."""

from __future__ import annotations

import msgspec
import pytest

from cortex.fleet.pace import Shape
from cortex.fleet.route import choose
from cortex.fleet.view import ReplicaView
from cortex.gateway.trace.kept import LONGEST_NAME, Trace, kept
from cortex.gateway.trace.record import LEFT, Attempt
from ended_requests import ended


def test_times_are_told_from_when_it_came() -> None:
    trace = kept(ended(), 1000.0, ())

    assert trace.received == 1100.0
    assert (trace.asked_at, trace.chosen_at, trace.sent_at) == pytest.approx((0.1, 0.4, 0.5))
    assert trace.first_token_at == pytest.approx(0.75)
    assert trace.decoded_at == pytest.approx(1.75)
    assert trace.seconds == 2.0
    assert trace.tokens_per_second == pytest.approx(11)


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [({}, "answered"), ({"status": LEFT, "trailer": None}, "left"), ({"code": "no_memory", "trailer": None}, "failed")],
)
def test_it_says_how_it_ended(fields: dict[str, object], outcome: str) -> None:
    assert kept(ended(**fields), 0.0, ()).outcome == outcome


def test_a_choice_names_what_was_passed_over_and_why() -> None:
    replicas = [ReplicaView(model="m", node=node, state="ready", slots=2) for node in "abcd"]
    flights = {("b", "m"): 1, ("c", "m"): 2}
    choice = choose(replicas, flights=flights, paces={}, shape=Shape(), warm={}, avoid={"d"})
    decision = kept(ended(choice=choice), 0.0, ()).decision

    assert decision is not None
    assert (decision.node, decision.reason) == ("a", "least expected time")
    assert decision.rejected.keys() == {"b", "c", "d"}
    assert decision.rejected["b"].startswith("done in about ")
    assert (decision.rejected["c"], decision.rejected["d"]) == ("no free slot", "failed this request")


def test_attempts_that_failed_are_told_with_how_long_each_took() -> None:
    trace = kept(ended(failures=[Attempt("b", 100.1, 100.2, 100.5, "upstream_timeout", "silent")]), 0.0, ())
    (failure,) = trace.failures

    assert (failure.node, failure.code, failure.reason) == ("b", "upstream_timeout", "silent")
    assert failure.seconds == pytest.approx(0.3)


def test_a_name_that_a_client_makes_up_is_cut() -> None:
    assert len(kept(ended(asked="x" * 5000), 0.0, ()).asked) == LONGEST_NAME


def test_it_survives_the_way_through_the_store() -> None:
    trace = kept(ended(), 0.0, ())

    assert msgspec.json.decode(msgspec.json.encode(trace), type=Trace) == trace
