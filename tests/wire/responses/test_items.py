from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.wire.responses.items import item_id, response_of, seal, unseal


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_sealed_is_read_back(text: str) -> None:
    assert unseal(seal(text)) == text


@pytest.mark.parametrize("content", ["", "gAAAAABn", "cortex1:!", "cortex1:/w=="])
def test_what_others_sealed_is_not_ours(content: str) -> None:
    assert unseal(content) is None


@pytest.mark.parametrize("response_id", ["resp_0123abc", "resp_a_b"])
def test_an_items_id_tells_whose_it_is(response_id: str) -> None:
    assert response_of(item_id("msg", response_id, 12)) == response_id
