from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BadRequest, EngineFailed
from cortex.wire.rerank import MAX_DOCUMENTS, RerankRequest, read_rerank


def read(**fields: Any) -> RerankRequest:
    return read_rerank(json.dumps({"model": "m", "query": "q", "documents": ["a", "b", "c"], **fields}).encode())


def results(subject: RerankRequest, *scores: float) -> list[tuple[int, float]]:
    found = json.loads(subject.answer(scores, 9))["results"]
    return [(each["index"], each["relevance_score"]) for each in found]


def test_the_engine_sees_a_pair_for_each_document() -> None:
    assert read(documents=["a", {"text": "b"}, {"text": "", "id": 3}]).documents == ("a", "b", "")


def test_the_best_come_first_and_equals_in_their_order() -> None:
    assert results(read(), 0.5, 1, 0.5) == [(1, 1.0), (0, 0.5), (2, 0.5)]


@pytest.mark.parametrize(("top_n", "count"), [(None, 3), (1, 1), (3, 3), (99, 3)])
def test_no_more_are_told_than_asked_for(top_n: int | None, count: int) -> None:
    assert results(read(top_n=top_n), 0.1, 0.2, 0.3) == [(2, 0.3), (1, 0.2), (0, 0.1)][:count]


def test_an_answer_has_the_shape_that_clients_know() -> None:
    assert json.loads(read(documents=["a"]).answer([0.25], 9)) == {
        "object": "list",
        "model": "m",
        "results": [{"index": 0, "relevance_score": 0.25}],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


@pytest.mark.parametrize(
    ("asked", "shown"), [(True, [{"text": "b"}, {"text": "a"}]), (False, [None] * 2), (None, [None] * 2)]
)
def test_documents_come_back_if_asked_for(asked: bool | None, shown: list[Any]) -> None:
    answer = json.loads(read(documents=["a", {"text": "b"}], return_documents=asked).answer([0.1, 0.2], 1))

    assert [each.get("document") for each in answer["results"]] == shown


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"query": ""}, "query"),
        ({"query": ["q"]}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", 3]}, "documents[1]"),
        ({"documents": [{"image": "x"}]}, "documents[0]"),
        ({"documents": ["a"] * (MAX_DOCUMENTS + 1)}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": "3"}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"rank_fields": ["title"]}, "rank_fields"),
        ({"max_chunks_per_doc": 10}, "max_chunks_per_doc"),
        ({"max_tokens_per_doc": 512}, "max_tokens_per_doc"),
        ({"truncate_prompt_tokens": 1}, "truncate_prompt_tokens"),
    ],
)
def test_what_is_wrong_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)

    assert caught.value.param == param


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"{}", b'{"model":"m","query":"q"}', b'{"query":"\xff"}'])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_rerank(body)


def test_what_does_not_change_the_answer_is_ignored_by_name() -> None:
    assert read(user="u", **{"a\r\nb": 1}, rank_fields=None).ignored == ("a??b", "user")


@pytest.mark.parametrize("scores", [[], [0.1, 0.2], [0.1] * 4, [0.1, 0.2, math.nan], [0, 0, 1.01], [-0.1, 0, 0]])
def test_scores_that_are_none_are_the_engines_fault(scores: list[float]) -> None:
    with pytest.raises(EngineFailed):
        read().answer(scores, 1)


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=20), top_n=st.integers(1, 25))
def test_what_is_left_out_is_never_better(scores: list[float], top_n: int) -> None:
    told = results(read(documents=["d"] * len(scores), top_n=top_n), *scores)

    assert len(told) == min(top_n, len(scores))
    assert all(scores[at] == score for at, score in told)
    assert [score for _, score in told] == sorted(scores, reverse=True)[:top_n]
    assert len({at for at, _ in told}) == len(told)
