"""A stop string is found wherever the text is cut into pieces."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cortex.engines.transformers.stops import StopStrings, held_length

TEXT = "The sea is wide. STOP here, or STO there, and END."


def read(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    finder = StopStrings(stops)
    shown = "".join(finder.feed(piece) for piece in pieces) + finder.flush()
    return shown, finder.stopped_by


def cut(text: str, places: list[int]) -> list[str]:
    at = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in itertools.pairwise(at)]


@given(st.lists(st.integers(0, 200), max_size=20))
def test_it_ends_the_text_wherever_the_pieces_meet(places: list[int]) -> None:
    assert read(cut(TEXT, places), ["STOP", "END"]) == ("The sea is wide. ", "STOP")


@given(st.lists(st.integers(0, 200), max_size=20))
def test_what_only_begins_like_one_is_text(places: list[int]) -> None:
    assert read(cut(TEXT, places), ["STOPPED", "END!"]) == (TEXT, None)


def test_the_first_in_the_text_counts() -> None:
    assert read(["a b c"], ["c", "b"]) == ("a ", "b")


def test_nothing_is_shown_of_what_may_become_one() -> None:
    finder = StopStrings(["abc"])

    assert [finder.feed(piece) for piece in ("xa", "b", "d")] == ["x", "", "abd"]


def test_nothing_comes_after_one() -> None:
    finder = StopStrings(["."])

    assert [finder.feed("a."), finder.feed("b"), finder.flush()] == ["a", "", ""]


def test_the_longest_beginning_is_held() -> None:
    assert [held_length("xaab", ["aabc", "bc"]), held_length("xyz", ["a"]), held_length("a", [])] == [3, 0, 0]
