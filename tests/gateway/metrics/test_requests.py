"""Requests and decisions are counted where and as what they ended."""

from __future__ import annotations

import pytest

from cortex.fleet.work import Event
from cortex.gateway.metrics.requests import MAX_KEYS, OTHER_KEYS, Sums
from cortex.gateway.trace.record import LEFT, Attempt, Record
from cortex.wire.engine_api import Usage
from ended_requests import ended

AT = {"model": "m", "node": "a"}


def sample(sums: Sums, name: str, **labels: str) -> float | None:
    found = [s.value for m in sums.collect() for s in m.samples if s.name == name and s.labels == labels]
    return found[0] if found else None


def counted(*records: Record) -> Sums:
    sums = Sums()
    sums.count(records)
    return sums


def test_an_answer_counts_its_tokens_and_times() -> None:
    sums = counted(ended())

    assert sample(sums, "cortex_requests_total", **AT) == 1
    assert sample(sums, "cortex_completion_tokens_total", **AT) == 11
    assert sample(sums, "cortex_time_to_first_token_seconds_sum", **AT) == pytest.approx(0.75)
    assert sample(sums, "cortex_inter_token_latency_seconds_sum", **AT) == pytest.approx(0.1)
    assert sample(sums, "cortex_queue_wait_seconds_sum", **AT) == pytest.approx(0.3)
    assert sample(sums, "cortex_request_errors_total", **AT, code="") is None


def test_a_client_that_leaves_saves_what_the_mean_answer_would_have_had_beyond_what_came() -> None:
    left = ended(status=LEFT, trailer=None, events=4)
    limited = ended(status=LEFT, trailer=None, events=4, limit=5)

    assert sample(counted(ended(), left), "cortex_cancelled_tokens_saved_total", **AT) == 11 - 4
    assert sample(counted(ended(), limited), "cortex_cancelled_tokens_saved_total", **AT) == 5 - 4
    assert sample(counted(left), "cortex_cancelled_tokens_saved_total", **AT) == 0


def test_a_request_that_never_asked_for_a_replica_did_not_wait_for_one() -> None:
    refused = ended(node="-", asked_at=0.0, trailer=None, status=400, code="bad")

    assert sample(counted(refused), "cortex_queue_wait_seconds_count", model="m", node="-") is None


def test_a_failover_is_counted_only_if_another_node_served() -> None:
    failed = [Attempt("b", 100.0, 100.1, 100.2, "upstream_connection_error", "")]
    served, lost = ended(failures=failed), ended(failures=failed, code="upstream_timeout", trailer=None)

    assert sample(counted(served), "cortex_failovers_total", model="m", node="b") == 1
    assert sample(counted(lost), "cortex_failovers_total", model="m", node="b") is None
    assert sample(counted(lost), "cortex_retries_total", model="m", node="b") == 1


def test_keys_beyond_the_bound_are_counted_together() -> None:
    sums = counted(*(ended(key=f"key-{number}") for number in range(MAX_KEYS + 3)))

    assert sample(sums, "cortex_key_requests_total", key="key-0") == 1
    assert sample(sums, "cortex_key_requests_total", key=OTHER_KEYS) == 3


def test_a_key_that_was_taken_away_is_gone() -> None:
    sums = counted(ended(key="alice", paid=Usage(1, 2)), ended(key="bob", let_in=False, code="budget_exceeded"))
    sums.keep_keys({"alice"})

    assert sample(sums, "cortex_key_tokens_total", key="alice", kind="completion") == 2
    assert sample(sums, "cortex_key_refusals_total", key="bob", code="budget_exceeded") is None


def test_a_request_that_did_not_come_as_far_as_its_keys_limits_is_not_counted_for_it() -> None:
    sums = counted(ended(let_in=None, code="bad"))

    assert sample(sums, "cortex_key_requests_total", key="alice") is None


@pytest.mark.parametrize("kind", ["evicted", "unloaded"])
def test_an_eviction_is_counted_by_its_reason(kind: str) -> None:
    sums = Sums()
    sums.decided(Event(1.0, kind, "m", "a", "in words", {"cause": "ttl"}))

    assert sample(sums, "cortex_evictions_total", **AT, reason="ttl") == 1
