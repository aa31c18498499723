"""Cold starts: one load a model, however many wait for it, owned by the gateway and not by whoever asked first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import httpx2
import msgspec
from anyio.abc import TaskGroup

from cortex.core.errors import BadRequest, CortexError, ShuttingDown, UpstreamFailed
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.gateway.metrics import Metrics
from cortex.gateway.poller import Poller
from cortex.wire.errors import error_from
from cortex.wire.json import decode, encode
from cortex.wire.node_api import LoadProgress, LoadRequest, ModelInfo
from cortex.wire.sse import comment

log = get_logger(__name__)

WATCH_SECONDS = 0.5
# Another node may have what this one lacks; anything else would fail there too.
_NEXT_NODE = frozenset({"insufficient_memory", "no_feasible_node", "shutting_down", "upstream_connection_error"})

_models = msgspec.json.Decoder(list[ModelInfo])


@dataclass(eq=False)
class LoadJob:
    """One load in progress; `wait` for it, or read how far it is."""

    model: str
    started: float = field(default_factory=time.monotonic)
    node: str = ""
    progress: LoadProgress | None = None
    error: CortexError | None = None
    _over: anyio.Event = field(default_factory=anyio.Event)

    async def wait(self) -> None:
        """Return when a replica is ready. Raises what the load failed of."""
        await self._over.wait()
        if self.error is not None:
            raise self.error

    def finish(self, error: CortexError | None) -> None:
        """Wake everyone who waits."""
        self.error = error
        self._over.set()

    def comment(self) -> bytes:
        """Return the keep-alive that a waiting stream hears: what is being done, how far it is, and for how long."""
        stage = self.progress.stage if self.progress else "asking the node"
        percent = self.progress.percent if self.progress else None
        done = "" if percent is None else f" {percent:.0f}%"
        return comment(f"loading {self.model} on {self.node}: {stage}{done}, {time.monotonic() - self.started:.0f}s")


class Loads:
    """Owns the loads in progress; their tasks live in the group it is given."""

    def __init__(self, poller: Poller, client: httpx2.AsyncClient, metrics: Metrics, tasks: TaskGroup) -> None:
        self._poller, self._client, self._metrics, self._tasks = poller, client, metrics, tasks
        self._jobs: dict[str, LoadJob] = {}

    def get(self, model: str) -> LoadJob | None:
        """Return the load of *model* that is in progress."""
        return self._jobs.get(model)

    def start(self, spec: ModelSpec, nodes: Sequence[str]) -> LoadJob:
        """Return the load of *spec*, beginning it on the first of *nodes* unless it is under way."""
        job = self._jobs.get(spec.id)
        if job is None:
            job = self._jobs[spec.id] = LoadJob(spec.id, node=nodes[0])
            self._tasks.start_soon(self._run, job, spec, nodes, name=f"load:{spec.id}")
        return job

    async def follow(self, model: str, node: str) -> None:
        """Wait until *node* has ended a load that somebody else asked it for."""
        while (view := self._poller.view.node(node)).healthy and any(
            replica.state == "loading" for replica in view.replicas if replica.model == model
        ):
            await anyio.sleep(WATCH_SECONDS)
            await self._poller.poll(node)

    async def _run(self, job: LoadJob, spec: ModelSpec, nodes: Sequence[str]) -> None:
        """Try the nodes in turn until one has the model."""
        error: CortexError | None = ShuttingDown(f"the gateway gave up the load of {spec.id}")
        try:
            for node in nodes:
                job.node, job.progress = node, None
                log.info("load_started", model=spec.id, node=node)
                self._metrics.cold_start(spec.id, node)
                error = await self._load_on(job, spec, node)
                await self._poller.poll(node)
                if error is None:
                    seconds = time.monotonic() - job.started
                    log.info("load_finished", model=spec.id, node=node, seconds=seconds)
                    return
                log.warning("load_failed", model=spec.id, node=node, error=str(error), code=error.code)
                if error.code not in _NEXT_NODE:
                    return
        finally:
            self._jobs.pop(spec.id, None)
            job.finish(error)

    async def _load_on(self, job: LoadJob, spec: ModelSpec, node: str) -> CortexError | None:
        """Load on *node*, watching how far it is; return what went wrong."""
        endpoint = self._poller.view.node(node).endpoint
        result: CortexError | None = UpstreamFailed(f"node {node} was lost while it loaded {spec.id}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, job, node, tasks.cancel_scope)
            try:
                answer = await self._client.post(
                    f"{endpoint}/models/load",
                    content=encode(load_request(spec)),
                    timeout=httpx2.Timeout(None, connect=5),
                )
            except httpx2.HTTPError as error:
                result = UpstreamFailed(f"node {node} was lost while it loaded {spec.id}: {type(error).__name__}")
            else:
                result = None
                if answer.status_code >= 300:
                    result = error_from(answer.status_code, answer.content, answer.headers.get("retry-after"))
                    if "x-should-retry" in answer.headers:
                        result.should_retry = answer.headers["x-should-retry"] == "true"
            tasks.cancel_scope.cancel()
        return result

    async def _watch(self, job: LoadJob, node: str, load: anyio.CancelScope) -> None:
        """Keep the job's progress fresh, and end *load* when the node is taken for dead: it may never say so itself."""
        while (view := self._poller.view.node(node)).healthy:
            await anyio.sleep(WATCH_SECONDS)
            try:
                models = decode((await self._client.get(f"{view.endpoint}/models")).content, _models)
            except (httpx2.HTTPError, BadRequest) as error:
                log.debug("load_watch_failed", model=job.model, error=str(error))
                continue
            job.progress = next((model.progress for model in models if model.id == job.model), None)
        load.cancel()


def load_request(spec: ModelSpec) -> LoadRequest:
    """Return *spec* as a node is asked to load it."""
    return LoadRequest(
        id=spec.id,
        source=spec.source,
        engine=spec.engine_name,
        quant=spec.quant,
        context=spec.context,
        devices=spec.wanted_devices,
        min_device_vram_mb=spec.min_device_vram_mb,
        vram_mb=spec.vram_mb,
        options=spec.options,
    )
