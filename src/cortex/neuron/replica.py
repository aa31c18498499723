"""One loaded copy of a model: a state machine with one owner task, an engine process, and the queue at its door."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio

from cortex.core.errors import CortexError, EngineFailed, LoadFailed, ModelNotReady, Overloaded, ShuttingDown
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Wish
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.memory import Account
from cortex.neuron.probation import Probation, Trial
from cortex.neuron.stages import Stages
from cortex.wire.engine_api import Chunk, Finished, Kind, Progress, ReplicaInfo
from cortex.wire.node_api import LoadProgress, ModelInfo, ReplicaState, estimate_error

log = get_logger(__name__)

MAX_CRASHES, CRASH_WINDOW_SECONDS = 5, 600.0
BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0
NO_MEMORY = Account()


@dataclass(slots=True)
class Running:
    """A replica's engine process while it lives, and what it became."""

    process: EngineProcess
    info: ReplicaInfo
    devices: list[int]


Serve = Callable[[Running], Awaitable[None]]
BringUp = Callable[["Replica", Serve], Awaitable[None]]
"""`bring_up(replica, serve)` loads the model, awaits `serve(running)`, and ends the process; see `neuron.models`."""


@dataclass(eq=False)
class Replica:
    """Owns its state; `run` is its one task. Everyone else reads, asks to `stop`, or generates through it.

    `claim` is the name that the load in progress, or the last one, reserves memory under; `levels` is what its devices
    come up to when what it held is back, in bytes, known from the end of its drain, which was at `drained_at`.
    """

    spec: ModelSpec
    wish: Wish
    queue_depth: int
    clock: Callable[[], float] = time.monotonic
    state: ReplicaState = "loading"
    error: CortexError | None = None
    running: Running | None = None
    in_flight: int = 0
    restarts: int = 0
    load_seconds: float | None = None
    unload_seconds: float | None = None
    drained_at: float | None = None
    last_words: Sequence[str] = ()
    process: EngineProcess | None = None
    probation: Probation = field(default_factory=Probation)
    requests: int = 0
    claim: str = ""
    levels: Mapping[int, int] = field(default_factory=dict)
    stages: Stages = field(default_factory=Stages)
    _started: float = 0.0
    _ready_at: float = 0.0
    _idle_since: float = 0.0
    _crashes: list[float] = field(default_factory=list)
    _settled: anyio.Event = field(default_factory=anyio.Event)
    _stop: anyio.Event = field(default_factory=anyio.Event)
    _idle: anyio.Event = field(default_factory=anyio.Event)
    _gone: anyio.Event = field(default_factory=anyio.Event)
    _turn: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(1))

    @property
    def progress(self) -> LoadProgress | None:
        """How far its load is, if one is under way and says so."""
        return self.stages.progress

    @progress.setter
    def progress(self, progress: LoadProgress | None) -> None:
        self.stages.tell(progress, self.clock())

    async def run(self, bring_up: BringUp) -> None:
        """Bring the replica up, restart it when it crashes, and return once it was stopped or cannot be kept up."""
        try:
            while not self._stop.is_set():
                self._started = self.clock()
                self.stages.begin(self._started)
                try:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._cancel_on_stop, tasks.cancel_scope)
                        await bring_up(self, self._serve)
                        tasks.cancel_scope.cancel()
                except* CortexError as group:
                    self.error = _first(group)
                except* Exception as group:  # the boundary of a replica: a mistake of ours costs one, not the node
                    log.error("replica_broke", model=self.spec.id, exc_info=group)
                    self.error = EngineFailed(f"internal error: {group.exceptions[0]!r}; see the log")
                if self._stop.is_set() or not await self._may_restart():
                    return
        finally:
            self.running = self.process = None
            self.state = "unloaded" if self._stop.is_set() or self.error is None else "failed"
            if self.state == "failed":
                log.error("replica_failed", model=self.spec.id, error=str(self.error))
            self._settled.set()
            self._gone.set()

    async def _cancel_on_stop(self, scope: anyio.CancelScope) -> None:
        """Cut a load short when the replica is to stop; a serving replica drains first, on its own."""
        await self._stop.wait()
        if self.running is None:
            scope.cancel()

    async def _serve(self, running: Running) -> None:
        """Be ready until the process dies or the replica is to stop."""
        self.running, self.state, self.progress, self.error = running, "ready", None, None
        self._ready_at = self._idle_since = self.clock()
        self.load_seconds = self._ready_at - self._started
        self._settled.set()
        log.info(
            "replica_ready",
            model=self.spec.id,
            engine=running.info.engine,
            devices=running.devices,
            pid=running.process.pid,
            context_tokens=running.info.context_tokens,
            slots=running.info.slots,
            load_seconds=self.load_seconds,
        )
        await _first_of(self._stop, running.process.died)
        if not self._stop.is_set():
            self.running, self.state, self._settled = None, "loading", anyio.Event()
            raise EngineFailed(running.process.reason or "the engine process is gone")
        self.state = "draining"
        log.debug("drain_started", model=self.spec.id, in_flight=self.in_flight)
        while self.in_flight and not running.process.died.is_set():
            self._idle = anyio.Event()
            await _first_of(self._idle, running.process.died)
        self.drained_at = self.clock()
        log.debug("drain_done", model=self.spec.id, in_flight=self.in_flight)

    async def _may_restart(self) -> bool:
        """Wait before a restart; False if the failure was a refusal, or came too often."""
        if not isinstance(self.error, EngineFailed) or self.load_seconds is None:
            return False
        now = self.clock()
        self._crashes = [at for at in self._crashes if now - at < CRASH_WINDOW_SECONDS] + [now]
        if len(self._crashes) > MAX_CRASHES:
            seconds = f"{CRASH_WINDOW_SECONDS:.0f} s"
            self.error = LoadFailed(f"crashed {len(self._crashes)} times within {seconds}: {self.error}")
            return False
        delay = min(BACKOFF_SECONDS * 2 ** (len(self._crashes) - 1), MAX_BACKOFF_SECONDS)
        log.error("replica_crashed", model=self.spec.id, error=str(self.error), restart_in_seconds=delay)
        self.restarts, self.progress = self.restarts + 1, LoadProgress("restarting")
        with anyio.move_on_after(delay):
            await self._stop.wait()
        return True

    async def settled(self) -> None:
        """Wait until the load in progress has ended, well or badly. Raises what it failed of, or what cut it short."""
        await self._settled.wait()
        if self.state == "unloaded":
            raise ShuttingDown(f"{self.spec.id} was unloaded while it was loading", retry_after_seconds=2)
        if self.state == "failed" and self.error is not None:
            raise self.error

    async def gone(self) -> None:
        """Wait until the replica has ended, whatever of."""
        await self._gone.wait()

    async def stop(self, drain_seconds: float = math.inf) -> None:
        """Drain for at most *drain_seconds*, unload, and return once the process is gone."""
        self._stop.set()
        if not self._gone.is_set():
            self.state = "draining"
        with anyio.move_on_after(drain_seconds):
            await self._gone.wait()
            return
        log.warning("drain_cut_short", model=self.spec.id, in_flight=self.in_flight)
        if self.process is not None:
            self.process.kill()
        await self._gone.wait()

    async def generate(
        self, kind: Kind, body: bytes, choices: int, request_id: str = ""
    ) -> AsyncGenerator[Progress | Chunk | Finished, None]:
        """Yield the engine's answer; closing this generator aborts it. Refuses at once what cannot be served now.

        *request_id* is what the engine process is told to call it.

        Raises PoisonRequest if engines died of this very request.
        """
        running = self.admit()
        self.in_flight += 1
        try:
            async with (
                Trial(self.probation, self._turn, self.spec.id, kind, body) as trial,
                aclosing(running.process.generate(kind, body, choices, request_id)) as events,
            ):
                async for event in events:
                    trial.saw(event)
                    yield event
        finally:
            self.in_flight -= 1
            self.requests += 1
            if not self.in_flight:
                self._idle_since = self.clock()
                self._idle.set()

    def admit(self) -> Running:
        """Return the live process if one more request may wait at its door. Raises what refuses it."""
        if self.state == "draining":
            raise ShuttingDown(f"{self.spec.id} is being unloaded", retry_after_seconds=2)
        if self.running is None:
            if self.state == "failed" and self.error is not None:
                raise LoadFailed(f"{self.spec.id} is not loaded: {self.error}")
            doing = "restarting" if self.restarts else "loading"
            raise ModelNotReady(f"{self.spec.id} is {doing}")
        if self.in_flight >= self.running.info.slots + self.queue_depth:
            slots = self.running.info.slots
            raise Overloaded(f"{self.spec.id} serves {slots} at once and {self.queue_depth} wait already")
        return self.running

    def describe(self, memory_bytes: int | None, account: Account = NO_MEMORY) -> ModelInfo:
        """Return the replica as `/models` lists it, with its memory in all and by device."""
        info, now = self.running.info if self.running else None, self.clock()
        is_idle = self.state == "ready" and not self.in_flight
        listed = ModelInfo(
            id=self.spec.id,
            engine=self.spec.engine_name,
            harness=self.spec.engine_name,
            engine_version=info.engine_version if info else "",
            source=self.spec.source_name if self.spec.engine_name != "simulated" else "",
            status=self.state,
            devices=self.running.devices if self.running else list(account.devices),
            context_tokens=info.context_tokens if info else self.spec.context,
            slots=info.slots if info else 0,
            in_flight=min(self.in_flight, info.slots) if info else 0,
            queued=max(0, self.in_flight - info.slots) if info else 0,
            capabilities=list(info.capabilities) if info else [],
            memory_bytes=memory_bytes,
            vram_used_mb=None if memory_bytes is None else memory_bytes >> 20,
            pid=self.running.process.pid if self.running else None,
            simulated=self.spec.engine_name == "simulated",
            progress=self.progress,
            error=str(self.error) if self.error else None,
            restarts=self.restarts,
            load_seconds=self.load_seconds,
            unload_seconds=self.unload_seconds,
            loaded_seconds_ago=now - self._ready_at if self.running else None,
            idle_seconds=now - self._idle_since if is_idle else None,
            requests=self.requests,
            bytes_by_device=dict(account.held),
            peak_by_device=dict(account.peak),
            reserved_by_device=dict(account.reserved),
            is_reserved=account.is_reserved,
            estimated_by_device=dict(account.need.by_device),
            estimate_basis=account.need.basis,
            last_words=list(self.last_words) if self.running is None else [],
            notes=list(info.notes) if info else [],
        )
        listed.estimate_error_ratio = estimate_error(listed)
        return listed


async def _first_of(*events: anyio.Event) -> None:
    """Wait for any one of *events*."""

    async def wait(event: anyio.Event) -> None:
        await event.wait()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for event in events:
            tasks.start_soon(wait, event)


def _first(group: BaseExceptionGroup[CortexError]) -> CortexError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, CortexError)
    return error
