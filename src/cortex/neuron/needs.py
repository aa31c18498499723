"""Decide what a model takes on given devices: what was measured, else the engine's estimate, else what is declared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.neuron.measured import Footprint, Measured
from cortex.neuron.sources import ModelFiles
from cortex.wire.engine_api import Device, EngineSpec
from cortex.wire.node_api import EstimateBasis

Ask = Callable[[Sequence[Room]], Awaitable[Mapping[int, int]]]
"""`await ask(rooms)`: the engine's own estimate in bytes by device; empty if it has none."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes by device, and where they come from; none if that is unknown."""

    by_device: Mapping[int, int]
    basis: EstimateBasis


async def need_of(spec: ModelSpec, rooms: Sequence[Room], engine_version: str, measured: Measured, ask: Ask) -> Need:
    """Return what *spec* will take on *rooms*, asking the engine only if no load of the same kind was measured."""
    if (peak := measured.get(footprint_of(spec, rooms, engine_version))) is not None:
        return Need({room.index: bytes_ for room, bytes_ in zip(rooms, peak, strict=True)}, "measured")
    if estimated := await ask(rooms):
        return Need(estimated, "estimate")
    return declared_need(spec, rooms)


def declared_need(spec: ModelSpec, rooms: Sequence[Room]) -> Need:
    """Return what the spec itself declares."""
    if spec.vram_mb is None:
        return Need({}, "unknown")
    return Need(shared(spec.vram_mb << 20, [room.index for room in rooms]), "declared")


def shared(total_bytes: int, devices: Sequence[int]) -> dict[int, int]:
    """Return *total_bytes* in equal parts, rounded up."""
    return dict.fromkeys(devices, -(-total_bytes // len(devices)))


def footprint_of(spec: ModelSpec, rooms: Sequence[Room], engine_version: str) -> Footprint:
    """Return what the memory of *spec* on *rooms* depends on."""
    return Footprint(
        source=spec.source_name,
        engine=spec.engine_name,
        engine_version=engine_version,
        kinds=tuple(room.kind for room in rooms),
        totals_gib=tuple(room.total_bytes >> 30 for room in rooms),
        quant=spec.quant,
        context=spec.context,
        options=spec.options,
    )


def engine_spec(spec: ModelSpec, files: ModelFiles, rooms: Sequence[Room]) -> EngineSpec:
    """Return *spec* as its engine is told of it."""
    return EngineSpec(
        model=spec.id,
        engine=spec.engine_name,
        path=str(files.path),
        devices=tuple(Device(r.index, r.kind, r.name, r.free_bytes, r.ordinal, r.total_bytes) for r in rooms),
        context=spec.context,
        options=spec.options,
        files={name: str(path) for name, path in files.beside.items()},
    )
