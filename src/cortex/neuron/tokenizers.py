"""Count tokens for models that are not loaded: one engine process at a time, with a vocabulary and no weights.

It stays for a while after its last use, since clients that count tokens do so again and again; a request for another
model takes its place. What is not on the node yet is not fetched for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import anyio
import msgspec
from anyio.abc import TaskGroup

from cortex.core.errors import EngineFailed, NoFeasibleNode, RequestError, ShuttingDown
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.neuron.config import NeuronConfig
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.model_files import cached_files
from cortex.neuron.needs import engine_spec
from cortex.neuron.sources import NotCached
from cortex.wire.engine_api import EngineSpec
from cortex.wire.node_api import Discovery

log = get_logger(__name__)

KEEP_SECONDS = 180.0
LOAD_SECONDS = 60.0
# Loading a vocabulary and counting take a second or two; this bounds the wait for those who asked before.
ANSWER_SECONDS = 90.0
# Tokens are counted on the CPU, and a process that sees a GPU takes memory on it. Not run on a GPU.
NO_GPUS = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": ""}


class ModelNotCached(RequestError):
    """The model's files are not on this node, which fetches nothing to count tokens."""

    status, code = 409, "model_not_cached"


@dataclass(eq=False)
class _Held:
    """The process with the vocabulary of *spec*; it lives until its *scope* ends, whose deadline each use moves."""

    spec: EngineSpec
    process: EngineProcess
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    gone: anyio.Event = field(default_factory=anyio.Event)

    async def live(self) -> None:
        try:
            with self.scope:
                await self.process.run()
        finally:
            self.gone.set()


class Tokenizers:
    """Owns the one process, which lives in *tasks*."""

    def __init__(self, config: NeuronConfig, discovery: Discovery, tasks: TaskGroup) -> None:
        self._config, self._discovery, self._tasks = config, discovery, tasks
        self._held: _Held | None = None
        self._turn = anyio.Lock()
        self._closed = False

    async def tokenize(self, spec: ModelSpec, body: bytes) -> bytes:
        """Return the engine's answer to the tokenize request *body* for *spec*.

        Raises ModelNotCached, NoFeasibleNode without its engine, LoadFailed, EngineFailed, ShuttingDown, and what the
        engine refuses.
        """
        if spec.engine_name not in self._discovery.engines:
            raise NoFeasibleNode(f"engine {spec.engine_name!r} is not installed here")
        try:
            files = await cached_files(spec, self._config, "counting tokens")
        except NotCached as error:
            raise ModelNotCached(error.message, param="model") from None
        wanted = msgspec.structs.replace(engine_spec(spec, files, ()), vocabulary_only=True)
        with anyio.move_on_after(ANSWER_SECONDS):
            async with self._turn:
                return await self._answer(wanted, body)
        raise EngineFailed(f"the tokens could not be counted within {ANSWER_SECONDS:.0f} s")

    async def _answer(self, spec: EngineSpec, body: bytes) -> bytes:
        held = await self._hold(spec)
        held.scope.deadline = math.inf
        try:
            return await held.process.tokenize(body)
        finally:
            held.scope.deadline = anyio.current_time() + KEEP_SECONDS

    async def _hold(self, spec: EngineSpec) -> _Held:
        """Return the process for *spec*, in place of whatever there was before."""
        held = self._held
        if held is not None and held.spec == spec and not held.process.died.is_set():
            return held
        await self._let_go()
        if self._closed:
            raise ShuttingDown("the neuron is shutting down")
        heartbeat = self._config.limits.heartbeat_seconds
        process = EngineProcess(spec.engine, f"vocabulary of {spec.model}", env=NO_GPUS, heartbeat_seconds=heartbeat)
        held = self._held = _Held(spec, process)
        self._tasks.start_soon(held.live, name=f"vocabulary:{spec.model}")
        try:
            await process.load(spec, lambda _: None, LOAD_SECONDS)
        except BaseException:
            held.scope.cancel()
            raise
        log.info("vocabulary_loaded", model=spec.model, pid=process.pid)
        return held

    async def _let_go(self) -> None:
        if self._held is not None:
            self._held.scope.cancel()
            await self._held.gone.wait()
            self._held = None

    async def close(self) -> None:
        """End the process, and start no other."""
        self._closed = True
        await self._let_go()
