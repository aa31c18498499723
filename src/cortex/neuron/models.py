"""The models of this node: one replica each, loaded at most once however many ask. Owns the table of replicas."""

from __future__ import annotations

import difflib

import anyio
import msgspec
from anyio.abc import TaskGroup

from cortex.core.errors import ModelNotFound, NoFeasibleNode, ShuttingDown
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Wish
from cortex.neuron.config import NeuronConfig
from cortex.neuron.estimates import Estimates
from cortex.neuron.loading import Loader, first_environment
from cortex.neuron.measured import Measured
from cortex.neuron.memory import Memory, Readings
from cortex.neuron.probation import Probation
from cortex.neuron.replica import Replica
from cortex.neuron.spares import Spares, spares_of
from cortex.neuron.tokenizers import Tokenizers
from cortex.wire.node_api import DeviceHealth, Discovery, EstimateAnswer, ModelInfo

log = get_logger(__name__)


class Models:
    """Load, unload and find replicas. Their tasks live in the task group it is given."""

    def __init__(self, config: NeuronConfig, discovery: Discovery, readings: Readings, tasks: TaskGroup) -> None:
        self._config, self._discovery, self._tasks = config, discovery, tasks
        self._memory = Memory(discovery, readings)
        measured = Measured(config.cache / "measured.json")
        wanted, heartbeat = spares_of(config, discovery.engines), config.limits.heartbeat_seconds
        self._spares = Spares(wanted, heartbeat, first_environment(self._memory))
        self._loader = Loader(config, self._memory, measured, self._spares)
        self._estimates = Estimates(config, discovery, self._memory, measured)
        self._tokenizers = Tokenizers(config, discovery, tasks)
        self._probation = Probation()
        self._replicas: dict[str, Replica] = {}
        self._unload_seconds: dict[str, float] = {}
        self._closed = False
        self.cycles = 0
        tasks.start_soon(self._spares.run, name="spares")

    def get(self, model: str) -> Replica:
        """Return the replica of *model*. Raises ModelNotFound with near names."""
        replica = self._replicas.get(model)
        if replica is None or replica.state == "unloaded":
            raise ModelNotFound(model, difflib.get_close_matches(model, self._replicas, n=3))
        return replica

    def describe(self) -> list[ModelInfo]:
        """Return every replica as `/models` lists it, sorted by id."""
        return [
            replica.describe(self._memory_of(replica), self._memory.account(replica.claim))
            for _, replica in sorted(self._replicas.items())
            if replica.state != "unloaded"
        ]

    def devices(self) -> list[DeviceHealth]:
        """Return the last reading of each device, with what loads in progress have reserved there."""
        return self._memory.devices()

    async def estimate(self, spec: ModelSpec, wish: Wish) -> EstimateAnswer:
        """Return what a load of *spec* would take now, and where; loads and fetches nothing."""
        return await self._estimates.answer(spec, wish)

    async def tokenize(self, model: str, spec: ModelSpec | None, body: bytes) -> bytes:
        """Return the answer to the tokenize request *body* for *model*: its replica's, or its vocabulary's alone.

        Without a replica that serves it takes *spec*, which says what *model* is. Raises ModelNotFound, ModelNotReady,
        and what `Tokenizers.tokenize` does.
        """
        known = self._replicas.get(model)
        if known is not None and known.running is not None:
            return await known.running.process.tokenize(body)
        if spec is not None:
            return await self._tokenizers.tokenize(spec, body)
        return await self.get(model).admit().process.tokenize(body)

    def _memory_of(self, replica: Replica) -> int | None:
        if replica.running is None:
            return None
        return replica.running.info.memory_bytes or self._memory.of_process(replica.running.process.pid)

    def start_load(self, spec: ModelSpec, wish: Wish) -> Replica:
        """Return the replica of *spec*, starting its load unless one is loaded, loading or on its way out."""
        if self._closed:
            raise ShuttingDown("the neuron is shutting down")
        known = self._replicas.get(spec.id)
        if known is not None and known.state not in ("failed", "unloaded"):
            if differing := differences(spec, known.spec):
                log.warning("load_differs", model=spec.id, differs=differing, effect="none: it is loaded as it was")
            return known
        if spec.engine_name not in self._discovery.engines:
            have = ", ".join(self._discovery.engines)
            raise NoFeasibleNode(f"engine {spec.engine_name!r} is not installed here; there is {have}")
        replica = self._replicas[spec.id] = Replica(
            spec, wish, self._config.limits.queue_depth, probation=self._probation
        )
        replica.unload_seconds = self._unload_seconds.get(spec.id)
        self._tasks.start_soon(replica.run, self._loader.bring_up, name=f"replica:{spec.id}")
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
        await self._memory.freed(model, replica.levels)
        self.cycles += 1
        if replica.drained_at is not None:
            self._unload_seconds[model] = replica.clock() - replica.drained_at
        log.info("model_unloaded", model=model, unload_seconds=self._unload_seconds.get(model))

    async def close(self) -> None:
        """Refuse new loads, drain all replicas within the configured bound, then end them."""
        self._closed = True
        self._spares.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tokenizers.close)
            for replica in self._replicas.values():
                tasks.start_soon(replica.stop, self._config.limits.drain_seconds)


def differences(asked: ModelSpec, loaded: ModelSpec) -> list[str]:
    """Return the keys that *asked* sets and in which *loaded* is not as asked."""
    default, named = ModelSpec(id=asked.id), msgspec.structs.asdict(asked)
    keys = [key for key in ("source", "quant", "context", "vram_mb", "options") if named[key] != getattr(default, key)]
    engine = ["engine"] if (asked.engine or asked.harness) and asked.engine_name != loaded.engine_name else []
    return engine + [key for key in keys if named[key] != getattr(loaded, key)]
