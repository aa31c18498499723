"""The table of what was measured: what it keeps, and that it survives whatever happens to its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cortex.neuron import measured as subject
from cortex.neuron.measured import MAX_ENTRIES, WORTH_BYTES, Footprint, Measured, Peak, key_of, merge
from cortex.neuron.sources.lock import lock

GIB = 1 << 30


def footprint(**different: Any) -> Footprint:
    same: dict[str, Any] = {"source": "hf:a/b", "engine": "e", "engine_version": "1", "kinds": ("cuda",)}
    return Footprint(**same | different)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "measured.json"


def saved(path: Path, of: Footprint, *bytes_: int) -> Measured:
    measured = Measured(path)
    measured.note(of, bytes_)
    anyio.run(measured.save)
    return measured


def test_what_was_measured_is_known_after_a_restart(path: Path) -> None:
    saved(path, footprint(kinds=("cuda", "cuda")), 5 * GIB, 6 * GIB)

    again = Measured(path)
    assert again.get(footprint(kinds=("cuda", "cuda"))) == (5 * GIB, 6 * GIB)
    assert again.get(footprint()) is None


@pytest.mark.parametrize(
    "different",
    [
        {"source": "hf:a/c"},
        {"engine": "f"},
        {"engine_version": "2"},
        {"kinds": ("cpu",)},
        {"quant": "Q4_0"},
        {"context": 4096},
        {"options": {"slots": 2}},
    ],
)
def test_whatever_memory_depends_on_is_told_apart(path: Path, different: dict[str, Any]) -> None:
    measured = saved(path, footprint(), GIB)

    assert measured.get(footprint(**different)) is None


def test_the_order_of_options_means_nothing() -> None:
    one, other = footprint(options={"a": 1, "b": 2}), footprint(options={"b": 2, "a": 1})

    assert key_of(one) == key_of(other)


def test_a_peak_only_grows_and_by_no_less_than_is_worth_a_write(path: Path) -> None:
    measured = saved(path, footprint(), 5 * GIB)
    written = path.stat().st_mtime_ns
    for seen in (1 * GIB, 5 * GIB + WORTH_BYTES):
        measured.note(footprint(), [seen])
        anyio.run(measured.save)

    assert measured.get(footprint()) == (5 * GIB,)
    assert path.stat().st_mtime_ns == written
    measured.note(footprint(), [6 * GIB])
    assert measured.get(footprint()) == (6 * GIB,)


def test_neurons_that_share_a_cache_share_what_they_measure(path: Path) -> None:
    one, other = Measured(path), Measured(path)
    one.note(footprint(), [5 * GIB])
    other.note(footprint(), [4 * GIB])
    other.note(footprint(context=1), [1 * GIB])
    anyio.run(one.save)
    anyio.run(other.save)

    assert other.get(footprint()) == (5 * GIB,)
    assert Measured(path).get(footprint()) == (5 * GIB,)
    assert Measured(path).get(footprint(context=1)) == (1 * GIB,)


BROKEN = {
    "nothing": b"",
    "half a file": b'{"version":1,"peaks":[{"of":',
    "another version": b'{"version":2,"peaks":[]}',
    "other keys": b'{"version":1,"peaks":[{"of":{},"bytes":[1]}]}',
    "not text": b'{"version":1,"\xff":0}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_named_set_aside_and_begun_anew(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
    with capture_logs() as logs:
        measured = saved(path, footprint(), GIB)

    assert [(line["event"], line["path"]) for line in logs] == [("measurements_broken", str(path))]
    assert path.with_name("measured.json.broken").read_bytes() == data
    assert measured.get(footprint()) == Measured(path).get(footprint()) == (GIB,)


def test_a_peak_that_does_not_name_its_devices_is_passed_over(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode({"version": 1, "peaks": [Peak(footprint(), (1, 2))]}))

    assert Measured(path).get(footprint()) is None


def test_a_directory_that_cannot_be_written_costs_the_file_and_not_the_measurement(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with capture_logs() as logs:
        measured = saved(tmp_path / "cache" / "measured.json", footprint(), GIB)

    assert {line["event"] for line in logs} == {"measurements_unreadable", "measurements_not_saved"}
    assert measured.get(footprint()) == (GIB,)


def test_a_neuron_that_hangs_with_the_lock_holds_nobody_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "SAVE_SECONDS", 0.05)
    measured = Measured(path)
    measured.note(footprint(), [GIB])

    async def scene() -> None:
        async with lock(path.with_name(".measured.json.lock")):
            await measured.save()

    with capture_logs() as logs:
        anyio.run(scene)
    assert not path.exists()
    anyio.run(measured.save)

    assert [line["event"] for line in logs] == ["measurements_not_saved"]
    assert Measured(path).get(footprint()) == (GIB,)


TABLES = st.dictionaries(st.integers(0, 5), st.tuples(st.integers(0, 9), st.integers(0, 9)))


def table_of(peaks: dict[int, tuple[int, int]]) -> dict[bytes, Peak]:
    footprints = {at: footprint(context=at, kinds=("cuda", "cuda")) for at in peaks}
    return {key_of(footprints[at]): Peak(footprints[at], bytes_) for at, bytes_ in peaks.items()}


@given(TABLES, TABLES)
def test_merged_tables_have_the_greatest_of_every_peak(one: dict[int, Any], other: dict[int, Any]) -> None:
    merged = merge(table_of(one), table_of(other))

    assert merged == merge(table_of(other), table_of(one))
    assert len(merged) == len(one.keys() | other.keys())
    for at, peak in [*table_of(one).items(), *table_of(other).items()]:
        assert all(most >= seen for most, seen in zip(merged[at].bytes, peak.bytes, strict=True))
    assert merge(merged, table_of(one)) == merged


def test_the_oldest_are_dropped_when_there_are_too_many() -> None:
    table = {str(at).encode(): Peak(footprint(), (at,)) for at in range(MAX_ENTRIES + 5)}

    merged = merge(table, {b"new": Peak(footprint(), (0,))})

    assert len(merged) == MAX_ENTRIES
    assert b"5" not in merged
    assert {b"6", b"new"} <= merged.keys()
