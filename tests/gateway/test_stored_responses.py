"""What is kept of responses: whose it is, for how long, how many, and how large together."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cortex.core.errors import ConfigError
from cortex.gateway.app import CortexGateway
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.config import GatewayConfig, Responses
from cortex.gateway.stored_responses import SWEEP_EVERY, StoredResponses
from cortex.wire.responses.stored import StoredResponse, encode_stored

NOW = 1_000_000.0
TTL_SECONDS = 100.0
LIMIT = 10


def response(name: str, text: str = "hi") -> StoredResponse:
    return StoredResponse(
        id=name,
        created_at=5,
        model="m",
        input=(msgspec.Raw(b'{"type":"message","role":"user","content":"\xc3\xa4"}'),),
        output=(msgspec.Raw(b'{"type":"message","role":"assistant"}'),),
        response=msgspec.Raw(b'{"id":"%b","text":"%b"}' % (name.encode(), text.encode())),
    )


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[StoredResponses]:
    stored = StoredResponses(tmp_path / "state" / "responses.db", ttl_seconds=TTL_SECONDS, limit=LIMIT)
    yield stored
    stored.close()


def names(stored: StoredResponses, count: int, now: float = NOW) -> list[int]:
    """Return which of the responses `r0` … are found."""
    return [number for number in range(count) if stored.find(f"r{number}", "key", now)]


def test_a_response_is_found_as_it_was_kept(stored: StoredResponses) -> None:
    stored.keep(response("r"), "key", NOW)
    found = stored.find("r", "key", NOW)

    assert found is not None
    assert bytes(found.response) == b'{"id":"r","text":"hi"}'
    assert [bytes(item) for item in found.items] == [bytes(item) for item in response("r").items]
    assert (found.id, found.created_at, found.model) == ("r", 5, "m")


def test_a_response_is_its_owner_s_alone(stored: StoredResponses) -> None:
    stored.keep(response("r"), "key", NOW)

    assert stored.find("r", "another", NOW) is None
    assert not stored.delete("r", "another")
    assert stored.find("r", "key", NOW) is not None


def test_a_deleted_response_is_gone_and_cannot_be_deleted_again(stored: StoredResponses) -> None:
    stored.keep(response("r"), "key", NOW)

    assert stored.delete("r", "key")
    assert stored.find("r", "key", NOW) is None
    assert not stored.delete("r", "key")


def test_a_response_is_kept_for_its_time_and_no_longer(stored: StoredResponses) -> None:
    stored.keep(response("r"), "key", NOW)

    assert stored.find("r", "key", NOW + TTL_SECONDS - 1) is not None
    assert stored.find("r", "key", NOW + TTL_SECONDS) is None


def test_only_the_newest_are_kept(stored: StoredResponses) -> None:
    """Also of those that came within the same instant. The bound holds right after a sweep."""
    for number in range(SWEEP_EVERY + 1):
        stored.keep(response(f"r{number}"), "key", NOW)

    assert names(stored, SWEEP_EVERY + 1) == list(range(SWEEP_EVERY + 1 - LIMIT, SWEEP_EVERY + 1))


def test_the_bound_is_exceeded_by_no_more_than_what_comes_between_two_sweeps(stored: StoredResponses) -> None:
    for number in range(2 * SWEEP_EVERY):
        stored.keep(response(f"r{number}"), "key", NOW)
    assert len(names(stored, 2 * SWEEP_EVERY)) < LIMIT + SWEEP_EVERY


def size(name: str, text: str = "hi") -> int:
    return len(encode_stored(response(name, text)))


def test_the_oldest_make_room_for_a_new_one_and_no_more_than_need_be(tmp_path: Path) -> None:
    """At each addition: a few large ones would be far over the bound by the next sweep. It holds over a restart."""
    path = tmp_path / "responses.db"
    for first in (0, 3):
        stored = StoredResponses(path, max_bytes=3 * size("r0"))
        for number in range(first, first + 3):
            stored.keep(response(f"r{number}"), "key", NOW)
        assert names(stored, 9) == [first, first + 1, first + 2]
        stored.close()

    stored = StoredResponses(path, max_bytes=3 * size("r0"))
    stored.keep(response("r6", "x" * size("r0")), "key", NOW)
    assert names(stored, 9) == [5, 6]
    stored.close()


def test_what_is_deleted_or_kept_anew_gives_its_room_back(tmp_path: Path) -> None:
    stored = StoredResponses(tmp_path / "responses.db", max_bytes=2 * size("r0"))
    for number in (0, 1, 1, 1):
        stored.keep(response(f"r{number}"), "key", NOW)
    assert names(stored, 9) == [0, 1]

    stored.delete("r1", "key")
    stored.keep(response("r2"), "key", NOW)
    assert names(stored, 9) == [0, 2]
    stored.close()


def test_a_response_larger_than_the_bound_is_not_kept_and_costs_no_other(tmp_path: Path) -> None:
    stored = StoredResponses(tmp_path / "responses.db", max_bytes=2 * size("r0"))
    stored.keep(response("r0"), "key", NOW)
    stored.keep(response("r1", "x" * size("r0") * 2), "key", NOW)

    assert names(stored, 9) == [0]
    stored.close()


def test_a_smaller_bound_holds_from_the_next_one_that_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "responses.db"
    before = StoredResponses(path)
    for number in range(8):
        before.keep(response(f"r{number}"), "key", NOW)
    before.close()
    after = StoredResponses(path, max_bytes=2 * size("r0"))
    after.keep(response("r8"), "key", NOW)

    assert names(after, 9) == [7, 8]
    after.close()


def test_nothing_is_kept_for_no_time_and_what_was_before_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "responses.db"
    before = StoredResponses(path)
    before.keep(response("r0"), "key", NOW)
    before.close()
    none = StoredResponses(path, ttl_seconds=0)
    none.keep(response("r1"), "key", NOW)
    none.close()

    after = StoredResponses(path)
    assert names(after, 2) == []
    after.close()


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (Responses(), [0, 1, 2]),
        (Responses(keep=0), []),
        (Responses(keep="10s"), [2]),
        (Responses(max_bytes="300 B"), [2]),
    ],
)
def test_the_configuration_sets_the_bounds(tmp_path: Path, settings: Responses, kept: list[int]) -> None:
    stored = CortexGateway(GatewayConfig(responses=settings), Catalogue(()), tmp_path).responses
    for number in range(3):
        stored.keep(response(f"r{number}"), "key", NOW + 10 * number)

    assert names(stored, 3, NOW + 20) == kept
    stored.close()


def test_what_is_too_old_leaves_the_file(stored: StoredResponses, tmp_path: Path) -> None:
    stored.keep(response("old"), "key", NOW)
    for number in range(SWEEP_EVERY):
        stored.keep(response(f"r{number}"), "key", NOW + 2 * TTL_SECONDS)

    with sqlite3.connect(tmp_path / "state" / "responses.db") as database:
        assert database.execute("SELECT count(*) FROM responses WHERE id = 'old'").fetchone() == (0,)
    database.close()


def test_what_was_kept_outlives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "responses.db"
    first = StoredResponses(path)
    first.keep(response("r"), "key", NOW)
    first.close()
    second = StoredResponses(path)

    assert second.find("r", "key", NOW) is not None
    second.close()


def test_the_file_is_for_its_owner_s_eyes(stored: StoredResponses, tmp_path: Path) -> None:
    stored.keep(response("r"), "key", NOW)
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "state").iterdir()} == {0}


def test_a_response_that_cannot_be_read_is_as_good_as_gone(stored: StoredResponses, tmp_path: Path) -> None:
    stored.keep(response("r"), "key", NOW)
    database = sqlite3.connect(tmp_path / "state" / "responses.db", isolation_level=None)
    database.execute("UPDATE responses SET body = ?", (b'{"version":2}',))
    database.close()

    assert stored.find("r", "key", NOW) is None


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be taken for one\n" * 100])
def test_a_file_that_is_no_database_stops_the_start_and_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "responses.db"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"responses\.db.*gateway\.state"):
        StoredResponses(path)
    assert path.read_bytes() == content


def test_a_place_where_nothing_can_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")

    with pytest.raises(ConfigError, match=r"state"):
        StoredResponses(tmp_path / "state" / "responses.db")
