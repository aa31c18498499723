from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import BadRequest
from cortex.core.ids import MODEL_ID_MAX_CHARS, check_model_id, is_model_id, new_request_id, request_id_from

# Close enough to real ids that many are accepted, with everything that must not be.
NEARLY_AN_ID = st.text(st.sampled_from("aZ09._:@+-/\\ \n\r\t\0é~%"), max_size=24)


@pytest.mark.parametrize(
    "text",
    [
        "m",
        "gpt-4o",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "org/repo:Q4_K_M@main",
        "a/b/c/d",
        "x+y",
        "1b",
        "a" * MODEL_ID_MAX_CHARS,
    ],
)
def test_ordinary_model_ids_are_accepted(text: str) -> None:
    assert is_model_id(text)
    assert check_model_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "..",
        "../etc/passwd",
        "a/../b",
        "a/..",
        "a..b",
        "/a",
        "a/",
        "a//b",
        ".hidden",
        "a/.git",
        "-rf",
        "a/b/c/d/e",
        "a b",
        "a\n",
        "a\r\nx: y",
        "a\0",
        "a\\b",
        "C:\\x",
        "%2e%2e/x",
        "modèle",
        "а",  # Cyrillic
        "a" * (MODEL_ID_MAX_CHARS + 1),
    ],
)
def test_what_could_climb_hide_or_split_a_line_is_no_model_id(text: str) -> None:
    assert not is_model_id(text)
    with pytest.raises(BadRequest) as caught:
        check_model_id(text, param="id")

    assert caught.value.param == "id"
    assert len(str(caught.value)) < 400


@settings(deadline=None)
@given(st.one_of(NEARLY_AN_ID, st.text()))
def test_an_accepted_model_id_stays_below_the_directory_it_is_joined_to(text: str) -> None:
    if not is_model_id(text):
        return

    assert not any(segment in ("", ".", "..") or segment.startswith((".", "-", "~")) for segment in text.split("/"))
    assert "\\" not in text
    assert not any(unicodedata.category(c).startswith(("C", "Z")) for c in text)
    assert text.isascii()


def test_fresh_request_ids_differ_and_may_be_offered_again() -> None:
    fresh = new_request_id()

    assert fresh != new_request_id()
    assert request_id_from(fresh) == fresh


@pytest.mark.parametrize("offered", ["abc", "550e8400-e29b-41d4-a716-446655440000", "a.b_c-1", "x" * 128])
def test_a_harmless_request_id_is_kept(offered: str) -> None:
    assert request_id_from(offered) == offered


@pytest.mark.parametrize(
    "offered",
    [None, "", "a b", "a\r\nset-cookie: x", "a\n", "\x1b[2J", "-x", "é", "a;b", "a/b", "x" * 129, "a\0"],
)
def test_any_other_request_id_is_replaced(offered: str | None) -> None:
    assert re.fullmatch(r"req-[0-9a-f]{24}", request_id_from(offered))


@settings(deadline=None)
@given(st.one_of(NEARLY_AN_ID, st.text()))
def test_a_request_id_is_always_safe_in_a_header_and_a_log(offered: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", request_id_from(offered))
