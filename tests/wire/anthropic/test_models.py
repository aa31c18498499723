from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BadRequest
from cortex.wire.anthropic import describe_model, list_models


def entry(name: str, context: int | None = None) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "cortex", "context_length": context}


FIVE = [entry(name) for name in "abcde"]


def ids(page: dict[str, Any]) -> list[str]:
    return [model["id"] for model in page["data"]]


def test_a_model_in_anthropics_shape() -> None:
    assert describe_model(entry("org/m", 4096)) == {
        "type": "model",
        "id": "org/m",
        "display_name": "org/m",
        "created_at": "2023-11-14T22:13:20Z",
        "lifecycle": "active",
        "max_input_tokens": 4096,
        "max_tokens": 4096,
    }


def test_no_models_are_a_page_too() -> None:
    assert list_models([]) == {"data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize(
    ("asked", "expected", "more"),
    [
        ({}, "abcde", False),
        ({"limit": 5}, "abcde", False),
        ({"limit": 2}, "ab", True),
        ({"limit": 2, "after_id": "b"}, "cd", True),
        ({"limit": 2, "after_id": "c"}, "de", False),
        ({"after_id": "e"}, "", False),
        ({"limit": 2, "before_id": "e"}, "cd", True),
        ({"limit": 2, "before_id": "c"}, "ab", False),
        ({"before_id": "a"}, "", False),
        ({"after_id": "bb"}, "cde", False),
    ],
)
def test_a_page_is_what_was_asked_for(asked: dict[str, Any], expected: str, more: bool) -> None:
    page = list_models(FIVE, **asked)

    assert (ids(page), page["has_more"]) == (list(expected), more)
    assert (page["first_id"], page["last_id"]) == (expected[:1] or None, expected[-1:] or None)


@pytest.mark.parametrize("asked", [{"limit": 0}, {"limit": 1001}, {"after_id": "a", "before_id": "b"}])
def test_a_page_that_cannot_be_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        list_models(FIVE, **asked)


@given(st.sets(st.text(min_size=1, max_size=3)), st.integers(1, 4))
def test_pages_in_either_direction_are_all_models(names: set[str], limit: int) -> None:
    data = [entry(name) for name in sorted(names)]
    page = list_models(data, limit=limit)
    forward = ids(page)
    while page["has_more"]:
        page = list_models(data, limit=limit, after_id=page["last_id"])
        forward += ids(page)
    page = list_models(data, limit=limit, before_id="\U0010ffff" * 4)
    backward = ids(page)
    while page["has_more"]:
        page = list_models(data, limit=limit, before_id=page["first_id"])
        backward = ids(page) + backward

    assert forward == backward == sorted(names)
