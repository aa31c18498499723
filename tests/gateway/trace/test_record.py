"""What can be told of one request that has ended."""

from __future__ import annotations

import pytest

from cortex.wire.engine_api import Timings, Usage
from cortex.wire.sse import Trailer
from ended_requests import ended


def test_the_first_token_is_the_way_to_the_node_and_what_the_node_says_it_took() -> None:
    assert ended().first_token_seconds == pytest.approx(0.5 + 0.05 + 0.2)


def test_the_gap_is_between_tokens_of_which_there_is_one_less() -> None:
    assert ended().gap_seconds == pytest.approx(0.1)


@pytest.mark.parametrize("usage", [Usage(7, 1), Usage(7, 0)])
def test_one_token_has_no_gap(usage: Usage) -> None:
    assert ended(trailer=Trailer(usage, Timings(decode_ms=5))).gap_seconds is None


def test_without_the_nodes_word_there_are_no_times() -> None:
    assert ended(trailer=None).first_token_seconds is None
    assert ended(trailer=None).gap_seconds is None
