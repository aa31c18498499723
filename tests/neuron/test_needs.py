"""What a model takes: which source of that knowledge comes before which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.neuron.measured import Measured
from cortex.neuron.needs import Need, engine_spec, footprint_of, need_of, shared
from cortex.neuron.sources import ModelFiles

MIB = 1 << 20
ROOMS = (Room(3, "cuda", "A", 1), Room(1, "cuda", "B", 1))


class Engine:
    """Says what it is told to, and counts how often it was asked."""

    def __init__(self, estimate: Mapping[int, int]) -> None:
        self.estimate, self.asked = estimate, 0

    async def __call__(self, _: Sequence[Room]) -> Mapping[int, int]:
        self.asked += 1
        return self.estimate


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    return Measured(tmp_path / "measured.json")


def need(spec: ModelSpec, measured: Measured, engine: Engine, version: str = "1") -> Need:
    return anyio.run(partial(need_of, spec, ROOMS, version, measured, engine))


def test_what_was_measured_comes_first_and_the_engine_is_not_asked(measured: Measured) -> None:
    spec, engine = ModelSpec(id="m", vram_mb=5), Engine({3: 7, 1: 7})
    measured.note(footprint_of(spec, ROOMS, "1"), [30, 10])

    assert need(spec, measured, engine) == Need({3: 30, 1: 10}, "measured")
    assert engine.asked == 0


def test_a_measurement_of_another_version_is_none(measured: Measured) -> None:
    spec, engine = ModelSpec(id="m"), Engine({3: 7, 1: 7})
    measured.note(footprint_of(spec, ROOMS, "1"), [30, 10])

    assert need(spec, measured, engine, version="2") == Need({3: 7, 1: 7}, "estimate")


def test_an_engine_without_an_estimate_leaves_it_to_the_spec(measured: Measured) -> None:
    assert need(ModelSpec(id="m", vram_mb=5), measured, Engine({})) == Need(
        {3: 5 * MIB // 2, 1: 5 * MIB // 2}, "declared"
    )
    assert need(ModelSpec(id="m"), measured, Engine({})) == Need({}, "unknown")


@given(st.integers(0, 10**12), st.lists(st.integers(0, 99), min_size=1, max_size=9, unique=True))
def test_equal_parts_hold_the_whole_and_waste_less_than_a_byte_each(total: int, devices: list[int]) -> None:
    parts = shared(total, devices)

    assert list(parts) == devices
    assert len(set(parts.values())) == 1
    assert total <= sum(parts.values()) < total + len(devices)


def test_a_measurement_on_a_larger_device_is_none(measured: Measured) -> None:
    """There the engine may have made more slots, or split otherwise."""
    large = [Room(room.index, room.kind, room.name, 1, total_bytes=24 << 30) for room in ROOMS]
    measured.note(footprint_of(ModelSpec(id="m"), large, "1"), [30, 10])

    assert need(ModelSpec(id="m"), measured, Engine({3: 7, 1: 7})) == Need({3: 7, 1: 7}, "estimate")


def test_an_engine_is_told_of_the_files_beside_and_of_what_devices_hold() -> None:
    files = ModelFiles(Path("/m.gguf"), 5, "here", {"mmproj": Path("/p.gguf")})
    told = engine_spec(ModelSpec(id="m"), files, [Room(3, "cuda", "A", 1, total_bytes=2)])

    assert (told.path, told.files) == ("/m.gguf", {"mmproj": "/p.gguf"})
    assert (told.devices[0].memory_free_bytes, told.devices[0].memory_total_bytes) == (1, 2)
