"""Engine processes that have imported their engine and wait for a model, so that a load need not wait for that.

A spare sees the devices that it was started for: where an engine is told them by its environment, the spares are for
those of the last load, at first for the node's first device. They are no replicas: nobody is told of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from cortex.core.logging import get_logger
from cortex.core.model_spec import DEFAULT_ENGINE
from cortex.neuron.config import NeuronConfig
from cortex.neuron.engine_process import EngineProcess

log = get_logger(__name__)

# An engine that does not stay up is not started again and again.
RETRY_SECONDS = 30.0


@dataclass(eq=False)
class _Spare:
    engine: str
    env: Mapping[str, str]
    process: EngineProcess
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    gone: anyio.Event = field(default_factory=anyio.Event)


def spares_of(config: NeuronConfig, engines: Collection[str]) -> dict[str, int]:
    """Return how many spares to keep of each of the installed *engines*: one of the default engine unless told."""
    if config.spares is None:
        return {DEFAULT_ENGINE: 1} if DEFAULT_ENGINE in engines else {}
    for engine in config.spares.keys() - set(engines):
        log.warning("engine_unknown", name=engine, known=list(engines), key="spares")
    return {engine: count for engine, count in config.spares.items() if engine in engines}


class Spares:
    """Owns so many spares of each engine as *wanted* says; `process` gives one to a load, or a new one."""

    def __init__(self, wanted: Mapping[str, int], heartbeat_seconds: float, env: Mapping[str, str]) -> None:
        self._wanted, self._heartbeat_seconds = wanted, heartbeat_seconds
        self._env = dict.fromkeys(wanted, env)
        self._waiting: list[_Spare] = []
        self._wake = anyio.Event()
        self._closed = False

    @property
    def ready(self) -> list[str]:
        """The engines of the spares that wait for a model now."""
        return [spare.engine for spare in self._waiting if spare.process.ready.is_set()]

    async def run(self) -> None:
        """Start what is missing whenever a load is over, until `close`; returns when no process is left."""
        async with anyio.create_task_group() as tasks:
            while not self._closed:
                self._wake = anyio.Event()
                for engine, count in self._wanted.items():
                    for _ in range(count - sum(spare.engine == engine for spare in self._waiting)):
                        spare = self._new(engine)
                        self._waiting.append(spare)
                        tasks.start_soon(self._keep, spare, name=f"spare:{engine}")
                await self._wake.wait()

    @asynccontextmanager
    async def process(self, engine: str, model: str, env: Mapping[str, str]) -> AsyncGenerator[EngineProcess, None]:
        """Yield a process for *model* that runs with *env*; it is gone when the block is left."""
        spare = self._take(engine, env)
        if spare is None:
            process = EngineProcess(engine, model, env=env, heartbeat_seconds=self._heartbeat_seconds)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.run, name=f"engine:{model}")
                yield process
            return
        spare.process.adopt(model)
        try:
            yield spare.process
        finally:
            spare.scope.cancel()
            with anyio.CancelScope(shield=True):
                await spare.gone.wait()

    def replace(self, engine: str, env: Mapping[str, str]) -> None:
        """A load is over: start a spare for the next, which is taken to see the same devices."""
        if engine not in self._wanted or self._closed:
            return
        self._env[engine] = env
        for spare in [each for each in self._waiting if each.engine == engine and each.env != env]:
            self._waiting.remove(spare)
            spare.scope.cancel()
        self._wake.set()

    def close(self) -> None:
        """End the spares and start no more."""
        self._closed = True
        for spare in self._waiting:
            spare.scope.cancel()
        self._waiting.clear()
        self._wake.set()

    def _new(self, engine: str) -> _Spare:
        env = self._env[engine]
        heartbeat = self._heartbeat_seconds
        return _Spare(engine, env, EngineProcess(engine, "", env=env, heartbeat_seconds=heartbeat, is_spare=True))

    def _take(self, engine: str, env: Mapping[str, str]) -> _Spare | None:
        fitting = (spare for spare in self._waiting if spare.engine == engine and spare.env == env)
        spare = next((spare for spare in fitting if not spare.process.died.is_set()), None)
        if spare is not None:
            self._waiting.remove(spare)
        return spare

    async def _keep(self, spare: _Spare) -> None:
        """Run one process, also once it has a model; one that ends before that is replaced a while later."""
        with spare.scope:
            await spare.process.run()
        spare.gone.set()
        if spare in self._waiting:
            self._waiting.remove(spare)
            log.warning("spare_ended", engine=spare.engine, error=spare.process.reason)
            with anyio.move_on_after(RETRY_SECONDS):
                await self._wake.wait()
            self._wake.set()
