"""Which requests are remembered, for how long, and when one is not tried again."""

from __future__ import annotations

import pytest

from cortex.core.errors import PoisonRequest
from cortex.fleet.suspects import KEEP_SECONDS, MAX_KEPT, Suspects, fingerprint_of

ONE, OTHER = fingerprint_of("m", "chat", b"one"), fingerprint_of("m", "chat", b"other")


def test_a_request_is_the_same_only_to_the_same_model_in_the_same_words() -> None:
    all_ = {fingerprint_of(m, k, b) for m in ("m", "n") for k in ("chat", "completion") for b in (b"a", b"b")}

    assert len(all_) == 8
    assert fingerprint_of("m", "chat", b"one") == ONE


def test_the_second_death_is_the_last() -> None:
    suspects = Suspects()
    assert not suspects
    suspects.note(ONE, 0.0, chunks=7)
    record = suspects.get(ONE, 1.0)
    assert record is not None
    assert (record.deaths, record.chunks) == (1, 7)
    suspects.note(ONE, 1.0)

    with pytest.raises(PoisonRequest, match="2 engine processes ended") as caught:
        suspects.get(ONE, 2.0)
    assert (caught.value.status, caught.value.should_retry) == (500, False)
    assert suspects.get(OTHER, 2.0) is None


def test_a_death_is_forgotten_in_time_and_each_renews_what_is_known() -> None:
    suspects = Suspects()
    suspects.note(ONE, 0.0)
    suspects.note(OTHER, 0.0)
    suspects.note(OTHER, KEEP_SECONDS)

    assert suspects.get(ONE, KEEP_SECONDS + 1) is None
    with pytest.raises(PoisonRequest):
        suspects.get(OTHER, 2 * KEEP_SECONDS)
    assert suspects.get(OTHER, 2 * KEEP_SECONDS + 1) is None
    assert not suspects


def test_a_death_long_ago_does_not_count_with_a_new_one() -> None:
    suspects = Suspects()
    suspects.note(ONE, 0.0)
    suspects.note(ONE, KEEP_SECONDS + 1)

    assert suspects.get(ONE, KEEP_SECONDS + 2) is not None


def test_what_others_counted_is_not_added_to_what_is_known() -> None:
    """It may be the same death."""
    suspects = Suspects()
    suspects.note(ONE, 0.0, chunks=3)
    suspects.hear(ONE, 1, 1.0)
    record = suspects.get(ONE, 2.0)
    assert record is not None
    assert (record.deaths, record.chunks) == (1, 3)
    suspects.hear(ONE, 2, 3.0)

    with pytest.raises(PoisonRequest):
        suspects.get(ONE, 4.0)


def test_who_is_cleared_is_no_suspect() -> None:
    suspects = Suspects()
    suspects.note(ONE, 0.0)
    suspects.clear(ONE)
    suspects.clear(OTHER)

    assert suspects.get(ONE, 1.0) is None


def test_the_table_is_bounded_and_the_oldest_goes() -> None:
    suspects = Suspects()
    names = [fingerprint_of("m", "chat", b"%d" % n) for n in range(MAX_KEPT + 1)]
    for name in names:
        suspects.note(name, 0.0)

    assert suspects.get(names[0], 1.0) is None
    assert suspects.get(names[1], 1.0) is not None
