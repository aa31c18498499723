"""Bring one replica up: its files, its devices, its engine process, its bytes; and take all of it down again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count

import anyio

from cortex.core.errors import EngineFailed, LoadFailed
from cortex.core.logging import get_logger
from cortex.fleet.devices import Room
from cortex.neuron.config import NeuronConfig
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.measured import Measured
from cortex.neuron.memory import Memory
from cortex.neuron.model_files import fetch_files
from cortex.neuron.needs import Need, engine_spec, footprint_of, need_of, shared
from cortex.neuron.out_of_memory import ran_out_of_memory, refused_bytes
from cortex.neuron.placing import Place, find_place
from cortex.neuron.replica import Replica, Running, Serve
from cortex.neuron.sources import ModelFiles
from cortex.neuron.spares import Spares
from cortex.wire.engine_api import Progress
from cortex.wire.node_api import LoadProgress

log = get_logger(__name__)

WEIGH_SECONDS = 0.5
NOTE_SECONDS = 5.0
# What is added to a need that proved too small, where the engine does not say how much it was refused.
UNTOLD_SHARE, UNTOLD_BYTES = 0.1, 64 << 20


class Loader:
    """`bring_up` is what a `Replica` runs; one loader serves all replicas of a node."""

    def __init__(self, config: NeuronConfig, memory: Memory, measured: Measured, spares: Spares | None = None) -> None:
        self._config, self._memory, self._measured = config, memory, measured
        self._spares = spares or Spares({}, config.limits.heartbeat_seconds, {})
        self._loads = count(1)

    async def bring_up(self, replica: Replica, serve: Serve) -> None:
        """Fetch, start, fit, load and serve; the process is gone when this returns.

        A process sees the GPUs it was started for and no others, and is needed to say what the model takes. If that
        moves the model to other GPUs, another process is started for those.
        """
        spec = replica.spec
        log.info("load_started", model=spec.id, engine=spec.engine_name, source=spec.source_name)
        files = await self._fetch(replica)
        await self._memory.refresh()
        rooms: Sequence[Room] = self._memory.choose(spec, 1 if replica.wish == "auto" else replica.wish)
        while rooms := await self._run_on(rooms, replica, files, serve):
            log.info("load_moved", model=spec.id, devices=[room.index for room in rooms])

    async def _run_on(self, rooms: Sequence[Room], replica: Replica, files: ModelFiles, serve: Serve) -> Sequence[Room]:
        """Load and serve with a process that sees *rooms*; return the rooms to start over on, none when it is over."""
        spec = replica.spec
        elsewhere: Sequence[Room] = ()
        replica.claim = f"{spec.id}#{next(self._loads)}"
        env = _visible(rooms)
        pid: int | None = None
        try:
            async with self._spares.process(spec.engine_name, spec.id, env) as process:
                replica.process = process
                place = await self._find_place(rooms, replica, process, files)
                pid = process.pid
                if _visible(place.rooms) == env:
                    self._memory.reserve(replica.claim, spec.id, place.indices, place.need, pid)
                    running = await self._load(replica, process, files, place)
                    self._spares.replace(spec.engine_name, env)
                    await self._serve(replica, running, place, serve)
                    replica.levels = self._memory.levels_without(replica.claim)
                else:
                    elsewhere = place.rooms
                await process.stop()
        finally:
            replica.last_words = replica.process.last_words if replica.process is not None else ()
            replica.process = None
            self._memory.release(replica.claim, pid)
            self._spares.replace(spec.engine_name, env)
        return elsewhere

    async def _find_place(
        self, rooms: Sequence[Room], replica: Replica, process: EngineProcess, files: ModelFiles
    ) -> Place:
        """Return where the replica fits now, on *rooms* if it does. Raises InsufficientMemory."""
        spec = replica.spec
        replica.progress = LoadProgress("starting the engine")
        await process.until_ready()

        async def ask(rooms: Sequence[Room]) -> Mapping[int, int]:
            return (await process.estimate(engine_spec(spec, files, rooms))).bytes_per_device

        async def need_on(rooms: Sequence[Room]) -> Need:
            return await need_of(spec, rooms, process.engine_version, self._measured, ask)

        place = await find_place(self._memory, spec, [room.index for room in rooms], need_on)
        if place.lack is not None:
            place = await find_place(self._memory, spec, replica.wish, need_on)
        if place.lack is not None:
            raise place.lack
        return place

    async def _fetch(self, replica: Replica) -> ModelFiles:
        """Return where the engine finds the model."""

        def on_progress(stage: str, done: int, total: int) -> None:
            replica.progress = LoadProgress(stage, round(100 * done / total, 1) if total else None)

        return await fetch_files(replica.spec, self._config, on_progress, offline=self._config.models.offline)

    async def _load(self, replica: Replica, process: EngineProcess, files: ModelFiles, place: Place) -> Running:
        spec = engine_spec(replica.spec, files, place.rooms)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._weigh, replica, process.pid, sum(place.need.by_device.values()))
            try:
                info = await process.load(spec, partial(_follow, replica), self._config.limits.load_seconds)
            except (LoadFailed, EngineFailed) as error:
                await self._learn_from(f"{error} {' '.join(process.last_words)}", replica, process, place)
                raise
            tasks.cancel_scope.cancel()
        await self._memory.refresh()
        declared = shared(info.memory_bytes, place.indices) if info.simulated and info.memory_bytes is not None else {}
        self._memory.settle(replica.claim, declared)
        return Running(process, info, list(place.indices))

    async def _serve(self, replica: Replica, running: Running, place: Place, serve: Serve) -> None:
        """Serve, and keep what the replica has held at most; a load that was never ready has shown nothing."""
        footprint = footprint_of(replica.spec, place.rooms, running.process.engine_version)

        def note() -> None:
            peak = self._memory.account(replica.claim).peak
            if all(index in peak for index in place.indices):
                self._measured.note(footprint, [peak[index] for index in place.indices])

        async def note_forever() -> None:
            while True:
                note()
                await self._measured.save()
                await anyio.sleep(NOTE_SECONDS)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(note_forever, name=f"peak:{replica.spec.id}")
                await serve(running)
                tasks.cancel_scope.cancel()
        finally:
            note()
            with anyio.CancelScope(shield=True):
                await self._measured.save()

    async def _learn_from(self, words: str, replica: Replica, process: EngineProcess, place: Place) -> None:
        """Keep what a load that ran out of memory needed, as far as it can be told, for the next fit."""
        if not ran_out_of_memory(words, in_ram=all(room.kind == "cpu" for room in place.rooms)):
            return
        peak = self._memory.account(replica.claim).peak
        held = [max(peak.get(index, 0), place.need.by_device.get(index, 0)) for index in place.indices]
        more = refused_bytes(words)
        needed = [bytes_ + (more or max(UNTOLD_BYTES, round(UNTOLD_SHARE * bytes_))) for bytes_ in held]
        log.warning("load_ran_out_of_memory", model=replica.spec.id, devices=place.indices, needed_bytes=needed)
        self._measured.note(footprint_of(replica.spec, place.rooms, process.engine_version), needed)
        with anyio.CancelScope(shield=True):
            await self._measured.save()

    async def _weigh(self, replica: Replica, pid: int, needed_bytes: int) -> None:
        """Tell how far a load is by what the process has taken, where the engine itself cannot tell."""
        ours: LoadProgress | None = None
        while needed_bytes:
            await anyio.sleep(WEIGH_SECONDS)
            held, told = self._memory.of_process(pid), replica.progress
            if held is not None and told is not None and (told.percent is None or told is ours):
                ours = replica.progress = LoadProgress(told.stage, min(99.0, round(100 * held / needed_bytes, 1)))


def _follow(replica: Replica, step: Progress) -> None:
    percent = round(100 * step.done / step.total, 1) if step.total else None
    replica.progress = LoadProgress(step.stage, percent)


def first_environment(memory: Memory) -> dict[str, str]:
    """Return the environment of an engine that a load is likely to want first: it sees the node's first device."""
    return _visible(memory.rooms()[:1])


def _visible(rooms: Sequence[Room]) -> dict[str, str]:
    """Return the environment that lets an engine see only the GPUs it was given. Not run on a GPU."""
    ordinals = ",".join(str(room.ordinal) for room in rooms if room.kind in ("cuda", "rocm"))
    if any(room.kind == "cuda" for room in rooms):
        return {"CUDA_VISIBLE_DEVICES": ordinals, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if any(room.kind == "rocm" for room in rooms):
        return {"ROCR_VISIBLE_DEVICES": ordinals}
    return {}
