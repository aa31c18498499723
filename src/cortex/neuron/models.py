"""The models of this node: one replica each, loaded at most once however many ask. Owns the table of replicas."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from cortex.core.errors import ModelNotFound, NoFeasibleNode, ShuttingDown
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.fleet.fit import SIMULATED_ENGINE, Room, Wish, check_fit, choose_devices
from cortex.neuron.config import NeuronConfig
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.replica import Replica, Running, Serve
from cortex.neuron.sources import fetch
from cortex.wire.engine_api import Device, EngineSpec, Progress
from cortex.wire.node_api import DeviceHealth, Discovery, LoadProgress, ModelInfo

log = get_logger(__name__)

WEIGH_SECONDS = 0.5


class Readings(Protocol):
    """What this module needs of `neuron.readings`."""

    def devices(self) -> Sequence[DeviceHealth]:
        """Return the last reading of each device."""
        ...

    async def refresh(self) -> None:
        """Read all devices now."""
        ...

    def watch(self, pid: int) -> None:
        """Begin to measure the process *pid*."""
        ...

    def unwatch(self, pid: int) -> None:
        """Stop measuring it."""
        ...

    def memory_of(self, pid: int) -> int | None:
        """Return its memory in bytes at the last reading."""
        ...

    def declare(self, index: int, owner: str, bytes_: int) -> None:
        """Count *bytes_* as used on a device."""
        ...

    def release(self, owner: str) -> None:
        """Take back what *owner* declared."""
        ...


class Models:
    """Load, unload and find replicas. Their tasks live in the task group it is given."""

    def __init__(
        self,
        config: NeuronConfig,
        discovery: Discovery,
        readings: Readings,
        tasks: TaskGroup,
    ) -> None:
        self._config, self._discovery = config, discovery
        self._readings, self._tasks = readings, tasks
        self._replicas: dict[str, Replica] = {}
        self._reserved: dict[str, Mapping[int, int]] = {}
        self._loads = count(1)
        self._closed = False

    def get(self, model: str) -> Replica:
        """Return the replica of *model*. Raises ModelNotFound with near names."""
        replica = self._replicas.get(model)
        if replica is None or replica.state == "unloaded":
            raise ModelNotFound(model, difflib.get_close_matches(model, self._replicas, n=3))
        return replica

    def describe(self) -> list[ModelInfo]:
        """Return every replica as `/models` lists it, sorted by id."""
        return [
            replica.describe(self._memory_of(replica))
            for _, replica in sorted(self._replicas.items())
            if replica.state != "unloaded"
        ]

    def _memory_of(self, replica: Replica) -> int | None:
        if replica.running is None:
            return None
        return replica.running.info.memory_bytes or self._readings.memory_of(replica.running.process.pid)

    def start_load(self, spec: ModelSpec, wish: Wish) -> Replica:
        """Return the replica of *spec*, starting its load unless one is loaded, loading or on its way out."""
        if self._closed:
            raise ShuttingDown("the neuron is shutting down")
        known = self._replicas.get(spec.id)
        if known is not None and known.state not in ("failed", "unloaded"):
            return known
        if spec.engine_name not in self._discovery.engines:
            have = ", ".join(self._discovery.engines)
            raise NoFeasibleNode(f"engine {spec.engine_name!r} is not installed here; there is {have}")
        replica = self._replicas[spec.id] = Replica(spec, wish, self._config.limits.queue_depth)
        self._tasks.start_soon(replica.run, self._bring_up, name=f"replica:{spec.id}")
        return replica

    async def load(self, spec: ModelSpec, wish: Wish) -> Replica:
        """Load *spec* and return its replica once it serves; one that is being unloaded is waited out first.

        Raises what the load failed of.
        """
        while True:
            replica = self.start_load(spec, wish)
            if replica.state != "draining":
                await replica.settled()
                return replica
            await replica.gone()

    async def unload(self, model: str) -> None:
        """Drain and end the replica of *model*; return when its memory is back. Raises ModelNotFound."""
        replica = self.get(model)
        await replica.stop()
        if self._replicas.get(model) is replica:
            del self._replicas[model]
        await self._readings.refresh()
        log.info("model_unloaded", model=model)

    async def close(self) -> None:
        """Refuse new loads, drain all replicas within the configured bound, then end them."""
        self._closed = True
        async with anyio.create_task_group() as tasks:
            for replica in self._replicas.values():
                tasks.start_soon(replica.stop, self._config.limits.drain_seconds)

    async def _bring_up(self, replica: Replica, serve: Serve) -> None:
        """Fetch the files, start a process, see that it fits, load, serve; the process is gone when this returns."""
        spec, owner = replica.spec, f"{replica.spec.id}#{next(self._loads)}"
        log.info("load_started", model=spec.id, engine=spec.engine_name, source=spec.source_name)
        path = await self._fetch(replica)
        await self._readings.refresh()
        kinds = self._discovery.engine_devices.get(spec.engine_name, ())
        floor = spec.device_floor_bytes
        rooms = choose_devices(spec.engine_name, self._rooms(), replica.wish, kinds=kinds, floor_bytes=floor)
        engine_spec = EngineSpec(
            model=spec.id,
            engine=spec.engine_name,
            path=str(path),
            devices=tuple(Device(r.index, r.kind, r.name, r.free_bytes, r.ordinal) for r in rooms),
            context=spec.context,
            options=spec.options,
        )
        process = replica.process = EngineProcess(
            spec.engine_name,
            spec.id,
            env=_visible(rooms),
            heartbeat_seconds=self._config.limits.heartbeat_seconds,
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.run, name=f"engine:{spec.id}")
                running = await self._load(replica, process, engine_spec, owner)
                await serve(running)
                await process.stop()
        finally:
            self._reserved.pop(owner, None)
            self._readings.release(owner)
            replica.process = None
            if process.started:
                self._readings.unwatch(process.pid)

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
        needed = await self._estimate(replica.spec, process, spec)
        # From here to the reservation nothing is awaited: two loads never count the same free bytes.
        chosen = {device.index for device in spec.devices}
        check_fit(spec.model, needed, [room for room in self._rooms() if room.index in chosen])
        self._reserved[owner] = needed
        self._readings.watch(process.pid)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._weigh, replica, process.pid, sum(needed.values()))
            info = await process.load(spec, partial(_follow, replica), self._config.limits.load_seconds)
            tasks.cancel_scope.cancel()
        await self._readings.refresh()
        # Nothing is awaited here either: what was reserved is never counted beside what is in use.
        if info.simulated and info.memory_bytes is not None:
            self._readings.declare(spec.devices[0].index, owner, info.memory_bytes)
        self._reserved.pop(owner, None)
        return Running(process, info, [device.index for device in spec.devices])

    async def _weigh(self, replica: Replica, pid: int, needed_bytes: int) -> None:
        """Tell how far a load is by what the process has taken, where the engine itself cannot tell."""
        ours: LoadProgress | None = None
        while needed_bytes:
            await anyio.sleep(WEIGH_SECONDS)
            held, told = self._readings.memory_of(pid), replica.progress
            if held is not None and told is not None and (told.percent is None or told is ours):
                ours = replica.progress = LoadProgress(told.stage, min(99.0, round(100 * held / needed_bytes, 1)))

    async def _estimate(self, model: ModelSpec, process: EngineProcess, spec: EngineSpec) -> Mapping[int, int]:
        """Return the bytes needed on each device: the engine's estimate, else the spec's `vram_mb`."""
        estimated = (await process.estimate(spec)).bytes_per_device
        if estimated or model.vram_mb is None:
            return estimated
        share = (model.vram_mb << 20) // len(spec.devices)
        return {device.index: share for device in spec.devices}

    def _rooms(self) -> list[Room]:
        free = {device.index: device.memory_free_bytes for device in self._readings.devices()}
        held: dict[int, int] = {}
        for reservation in self._reserved.values():
            for index, bytes_ in reservation.items():
                held[index] = held.get(index, 0) + bytes_
        return [
            Room(d.index, d.kind, d.name, free.get(d.index, 0) - held.get(d.index, 0), d.ordinal, d.memory_total_bytes)
            for d in self._discovery.devices
        ]


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
