"""Bring one replica up: its files, its devices, its engine process, its bytes; and take all of it down again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import anyio

from cortex.core.errors import InsufficientMemory
from cortex.core.logging import get_logger
from cortex.fleet.fit import SIMULATED_ENGINE, Room
from cortex.neuron.config import NeuronConfig
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.memory import Memory
from cortex.neuron.replica import Replica, Running, Serve
from cortex.neuron.sources import fetch
from cortex.wire.engine_api import Device, EngineSpec, Progress
from cortex.wire.node_api import LoadProgress

log = get_logger(__name__)

WEIGH_SECONDS = 0.5


class Loader:
    """`bring_up` is what a `Replica` runs; one loader serves all replicas of a node."""

    def __init__(self, config: NeuronConfig, memory: Memory) -> None:
        self._config, self._memory = config, memory
        self._loads = count(1)

    async def bring_up(self, replica: Replica, serve: Serve) -> None:
        """Fetch, start, fit, load and serve; the process is gone when this returns.

        Devices are chosen before an engine can say what it needs. If another load has taken them meanwhile, the choice
        is made again, as long as it comes out differently.
        """
        spec = replica.spec
        log.info("load_started", model=spec.id, engine=spec.engine_name, source=spec.source_name)
        path = await self._fetch(replica)
        await self._memory.refresh()
        rooms = self._memory.choose(spec, replica.wish)
        while True:
            refused: ExceptionGroup[InsufficientMemory] | None = None
            try:
                await self._run_on(rooms, replica, path, serve)
            except* InsufficientMemory as group:
                refused = group
            if refused is None:
                return
            before, rooms = rooms, self._memory.choose(spec, replica.wish)
            if [room.index for room in rooms] == [room.index for room in before]:
                raise refused
            log.info("load_moved", model=spec.id, devices=[room.index for room in rooms])

    async def _run_on(self, rooms: Sequence[Room], replica: Replica, path: Path, serve: Serve) -> None:
        spec, owner = replica.spec, f"{replica.spec.id}#{next(self._loads)}"
        process = replica.process = EngineProcess(
            spec.engine_name,
            spec.id,
            env=_visible(rooms),
            heartbeat_seconds=self._config.limits.heartbeat_seconds,
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.run, name=f"engine:{spec.id}")
                running = await self._load(replica, process, _engine_spec(replica, path, rooms), owner)
                await serve(running)
                await process.stop()
        finally:
            replica.process = None
            self._memory.release(owner, process.pid if process.started else None)

    async def _fetch(self, replica: Replica) -> Path:
        """Return where the engine finds the model; a simulated one needs no files."""
        spec = replica.spec
        if spec.engine_name == SIMULATED_ENGINE:
            return Path()

        def on_progress(stage: str, done: int, total: int) -> None:
            replica.progress = LoadProgress(stage, round(100 * done / total, 1) if total else None)

        files = await fetch(
            spec.source_name,
            quant=spec.quant,
            cache=self._config.cache,
            on_progress=on_progress,
            hub_endpoint=self._config.models.hub_endpoint,
            offline=self._config.models.offline,
        )
        return files.path

    async def _load(self, replica: Replica, process: EngineProcess, spec: EngineSpec, owner: str) -> Running:
        replica.progress = LoadProgress("starting the engine")
        needed = await _estimate(replica, process, spec)
        self._memory.reserve(owner, spec.model, needed, process.pid)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._weigh, replica, process.pid, sum(needed.values()))
            info = await process.load(spec, partial(_follow, replica), self._config.limits.load_seconds)
            tasks.cancel_scope.cancel()
        await self._memory.refresh()
        declared = info.simulated and info.memory_bytes is not None
        self._memory.settle(owner, {spec.devices[0].index: info.memory_bytes or 0} if declared else {})
        return Running(process, info, [device.index for device in spec.devices])

    async def _weigh(self, replica: Replica, pid: int, needed_bytes: int) -> None:
        """Tell how far a load is by what the process has taken, where the engine itself cannot tell."""
        ours: LoadProgress | None = None
        while needed_bytes:
            await anyio.sleep(WEIGH_SECONDS)
            held, told = self._memory.of_process(pid), replica.progress
            if held is not None and told is not None and (told.percent is None or told is ours):
                ours = replica.progress = LoadProgress(told.stage, min(99.0, round(100 * held / needed_bytes, 1)))


async def _estimate(replica: Replica, process: EngineProcess, spec: EngineSpec) -> Mapping[int, int]:
    """Return the bytes needed on each device: the engine's estimate, else the spec's `vram_mb`."""
    estimated = (await process.estimate(spec)).bytes_per_device
    if estimated or replica.spec.vram_mb is None:
        return estimated
    share = (replica.spec.vram_mb << 20) // len(spec.devices)
    return {device.index: share for device in spec.devices}


def _engine_spec(replica: Replica, path: Path, rooms: Sequence[Room]) -> EngineSpec:
    spec = replica.spec
    return EngineSpec(
        model=spec.id,
        engine=spec.engine_name,
        path=str(path),
        devices=tuple(Device(r.index, r.kind, r.name, r.free_bytes, r.ordinal) for r in rooms),
        context=spec.context,
        options=spec.options,
    )


def _follow(replica: Replica, step: Progress) -> None:
    percent = round(100 * step.done / step.total, 1) if step.total else None
    replica.progress = LoadProgress(step.stage, percent)


def _visible(rooms: Sequence[Room]) -> dict[str, str]:
    """Return the environment that lets an engine see only the GPUs it was given. Not run on a GPU."""
    ordinals = ",".join(str(room.ordinal) for room in rooms if room.kind in ("cuda", "rocm"))
    if any(room.kind == "cuda" for room in rooms):
        return {"CUDA_VISIBLE_DEVICES": ordinals, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if any(room.kind == "rocm" for room in rooms):
        return {"ROCR_VISIBLE_DEVICES": ordinals}
    return {}
