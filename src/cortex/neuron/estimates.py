"""Answer `/models/estimate`: what a load would take and whether it fits now. Loads nothing and fetches nothing.

What was measured is known at once. Else the engine is asked in a process of its own, one at a time, and what it said is
kept, so that a gateway may ask for its whole catalogue again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
from anyio import to_thread

from cortex.core.errors import CortexError, EngineFailed, NoFeasibleNode
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import SIMULATED_ENGINE, Room, Wish
from cortex.neuron.config import NeuronConfig
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.measured import Measured, key_of
from cortex.neuron.memory import Memory
from cortex.neuron.model_files import cached_files
from cortex.neuron.needs import Need, engine_spec, footprint_of, need_of
from cortex.neuron.placing import Place, find_place
from cortex.neuron.sources import ModelFiles, SourceError
from cortex.wire.engine_api import EngineSpec
from cortex.wire.node_api import Discovery, EstimateAnswer

log = get_logger(__name__)

# The first bounds one engine process, the second the whole answer with the wait for those who asked before.
PROCESS_SECONDS, ANSWER_SECONDS = 15.0, 20.0
# A file may be mended, an engine may have been slow: it is asked again, but not by every gateway at every poll.
ERROR_SECONDS = 60.0
MAX_KEPT = 1000

FileIdentity = tuple[tuple[str, int, int], ...]
"""Path, bytes and time of change of each of a model's files."""

Key = tuple[bytes, tuple[int, ...], FileIdentity]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What an engine said, which counts until the clock shows *until*: bytes by device, or why there are none."""

    by_device: Mapping[int, int] = field(default_factory=dict)
    error: CortexError | None = None
    until: float = float("inf")


class Estimates:
    """Owns what engines have said."""

    def __init__(
        self,
        config: NeuronConfig,
        discovery: Discovery,
        memory: Memory,
        measured: Measured,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._discovery, self._memory, self._measured = config, discovery, memory, measured
        self._clock = clock
        self._kept: dict[Key, _Kept] = {}
        self._one_at_a_time = anyio.Lock()

    async def answer(self, spec: ModelSpec, wish: Wish) -> EstimateAnswer:
        """Return what *spec* would take now; what stands in the way of an answer is in the answer."""
        if spec.engine_name not in self._discovery.engines:
            return EstimateAnswer(
                model_id=spec.id, fits=False, error=f"engine {spec.engine_name!r} is not installed here"
            )
        errors: list[str] = []
        version = self._discovery.engine_versions.get(spec.engine_name, "")

        async def ask(rooms: Sequence[Room]) -> Mapping[int, int]:
            try:
                return await self._ask(spec, rooms, version)
            except CortexError as error:
                errors.append(str(error))
                return {}

        async def need_on(rooms: Sequence[Room]) -> Need:
            return await need_of(spec, rooms, version, self._measured, ask)

        try:
            place = await find_place(self._memory, spec, wish, need_on)
        except NoFeasibleNode as error:
            return EstimateAnswer(model_id=spec.id, fits=False, error=str(error))
        return _answer(spec, place, errors[0] if errors else None)

    async def _ask(self, spec: ModelSpec, rooms: Sequence[Room], version: str) -> Mapping[int, int]:
        """Return the engine's estimate. Raises SourceError if the files are not here, else what the engine raised."""
        files = await cached_files(spec, self._config, "an estimate")
        identity = await to_thread.run_sync(_identity, spec, files)
        key = (key_of(footprint_of(spec, rooms, version)), tuple(room.index for room in rooms), identity)
        kept = self._still_kept(key) or await self._ask_engine(key, engine_spec(spec, files, rooms))
        if kept.error is not None:
            raise kept.error
        return kept.by_device

    def _still_kept(self, key: Key) -> _Kept | None:
        kept = self._kept.get(key)
        return kept if kept is not None and self._clock() < kept.until else None

    async def _ask_engine(self, key: Key, spec: EngineSpec) -> _Kept:
        """Ask unless somebody else did meanwhile. Raises EngineFailed if it is not this one's turn in time."""
        with anyio.move_on_after(ANSWER_SECONDS):
            async with self._one_at_a_time:
                if (kept := self._still_kept(key)) is None:
                    kept = await self._ask_process(spec)
                    self._kept.pop(key, None)
                    self._kept[key] = kept
                    if len(self._kept) > MAX_KEPT:
                        del self._kept[next(iter(self._kept))]
                return kept
        raise EngineFailed(
            f"too many estimates are asked for: it was not this one's turn within {ANSWER_SECONDS:.0f} s"
        )

    async def _ask_process(self, spec: EngineSpec) -> _Kept:
        """Return what a new engine process says of *spec*; it is gone when this returns."""
        heartbeat = self._config.limits.heartbeat_seconds
        process = EngineProcess(spec.engine, f"estimate of {spec.model}", env={}, heartbeat_seconds=heartbeat)
        kept = self._failure(EngineFailed(f"the engine made no estimate within {PROCESS_SECONDS:.0f} s"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.run, name=f"estimate:{spec.model}")
            with anyio.move_on_after(PROCESS_SECONDS):
                try:
                    kept = _Kept((await process.estimate(spec)).bytes_per_device)
                except CortexError as error:
                    kept = self._failure(error)
            tasks.cancel_scope.cancel()
        log.debug("estimated", model=spec.model, bytes_by_device=dict(kept.by_device), error=str(kept.error or ""))
        return kept

    def _failure(self, error: CortexError) -> _Kept:
        return _Kept(error=error, until=self._clock() + ERROR_SECONDS)


def _identity(spec: ModelSpec, files: ModelFiles) -> FileIdentity:
    """Return what tells *files* from others, and from themselves when they have changed. Raises SourceError."""
    if spec.engine_name == SIMULATED_ENGINE:
        return ()
    try:
        seen = [(path, path.stat()) for path in (files.path, *files.beside.values())]
    except OSError as error:
        raise SourceError(f"{files.path}: {error}") from error
    own = (str(files.path), files.size_bytes, seen[0][1].st_mtime_ns)
    return own, *((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in seen[1:])


def _answer(spec: ModelSpec, place: Place, error: str | None) -> EstimateAnswer:
    return EstimateAnswer(
        model_id=spec.id,
        devices=list(place.indices),
        bytes_per_device=dict(place.need.by_device),
        basis=place.need.basis,
        fits=None if place.need.basis == "unknown" else place.lack is None,
        missing=None if place.lack is None else str(place.lack),
        error=error,
    )
