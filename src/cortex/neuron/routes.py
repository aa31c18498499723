"""The node API: what a gateway and an operator ask of a node. Inference itself is in `neuron.generation`."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex import __version__
from cortex.core.disk import free_bytes
from cortex.core.errors import BadRequest, ConfigError, ShuttingDown
from cortex.core.model_spec import ModelSpec, check_spec
from cortex.fleet.devices import Wish
from cortex.neuron.models import differences
from cortex.serving.application import error_handlers, json_response
from cortex.wire.json import decode, encode, fields_of
from cortex.wire.node_api import LoadAnswer, LoadRequest, UnloadRequest, Version
from cortex.wire.openai import read_request

if TYPE_CHECKING:
    from cortex.neuron.app import Neuron

_load = msgspec.json.Decoder(LoadRequest)
_unload = msgspec.json.Decoder(UnloadRequest)


class NodeRoutes:
    """Handlers over a `Neuron`."""

    def __init__(self, neuron: Neuron) -> None:
        self._neuron = neuron

    def table(self) -> list[Route]:
        """Return the routes, by the original's paths."""
        return [
            Route("/", self.health, methods=["GET", "HEAD"]),
            Route("/health", self.health),
            Route("/discovery", self.discovery),
            Route("/version", self.version),
            Route("/metrics", self.metrics),
            Route("/models", self.models),
            Route("/models/load", self.load, methods=["POST"]),
            Route("/models/estimate", self.estimate, methods=["POST"]),
            Route("/models/unload", self.unload, methods=["POST"]),
            Route("/models/{model:path}/endpoint", self.endpoint),
            Route("/tokenize", self.tokenize, methods=["POST"]),
        ]

    def errors(self) -> Mapping[Any, Callable[..., Any]]:
        """Return how exceptions are answered."""
        return error_handlers()

    async def health(self, _: Request) -> Response:
        """`GET /health`: state of the node from cached readings."""
        return json_response(self._neuron.health())

    async def discovery(self, _: Request) -> Response:
        """`GET /discovery`: what the node has."""
        return json_response(self._neuron.discovery)

    async def version(self, _: Request) -> Response:
        """`GET /version`."""
        version = Version(
            package_version=__version__,
            python=platform.python_version(),
            platform=sys.platform,
            engines=self._neuron.engines,
            unix_seconds=time.time(),
            cache_free_bytes=free_bytes(self._neuron.config.cache),
        )
        return json_response(version)

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`: Prometheus text."""
        return Response(generate_latest(self._neuron.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def models(self, _: Request) -> Response:
        """`GET /models`: every replica, whatever its state."""
        return json_response(self._neuron.models.describe())

    async def load(self, request: Request) -> Response:
        """`POST /models/load`: load, and answer when it serves; `?wait=false` answers at once."""
        asked = decode(await request.body(), _load)
        spec, wish = _spec_of(asked)
        if self._neuron.drain.begun:
            raise ShuttingDown("the neuron is shutting down")
        if request.query_params.get("wait") == "false":
            replica = self._neuron.models.start_load(spec, wish)
            if replica.state != "ready":
                return json_response({"status": replica.state, "model_id": spec.id}, status=202)
        replica = await self._neuron.models.load(spec, wish)
        stages = replica.stages.told(replica.clock())
        differing = differences(spec, replica.spec)
        return json_response(LoadAnswer(status="loaded", model_id=spec.id, stages=stages, differs=list(differing)))

    async def estimate(self, request: Request) -> Response:
        """`POST /models/estimate`: what a load would take now, and where."""
        spec, wish = _spec_of(decode(await request.body(), _load))
        return json_response(await self._neuron.models.estimate(spec, wish))

    async def unload(self, request: Request) -> Response:
        """`POST /models/unload`: drain, end the process, and answer when the memory is back."""
        asked = decode(await request.body(), _unload)
        model = asked.model_id or asked.id
        if not model:
            raise BadRequest("model_id: is missing", param="model_id")
        await self._neuron.models.unload(model)
        return json_response({"status": "unloaded", "model_id": model})

    async def endpoint(self, request: Request) -> Response:
        """`GET /models/{id}/endpoint`: where to send requests for a model, as the caller reached us."""
        self._neuron.models.get(request.path_params["model"])
        return json_response({"url": f"http://{request.headers.get('host', 'localhost')}"})

    async def tokenize(self, request: Request) -> Response:
        """`POST /tokenize`: `{"model", "content" or "messages"}` to token ids, with a `spec` also of a cold model."""
        body = await request.body()
        fields = fields_of(body)
        if "model" not in fields:
            raise BadRequest("model: is missing", param="model")
        model = msgspec.json.decode(fields["model"])
        if not isinstance(model, str):
            raise BadRequest("model: expected a string", param="model")
        spec = None
        if "spec" in fields:
            spec, _ = _spec_of(decode(bytes(fields.pop("spec")), _load))
        prompt = read_request("chat", encode(fields)).body if "messages" in fields else encode(fields)
        answer = await self._neuron.models.tokenize(model, spec, prompt)
        return Response(answer, media_type="application/json")


def _spec_of(asked: LoadRequest) -> tuple[ModelSpec, Wish]:
    """Return the spec and the devices that *asked* means, in either spelling. Raises BadRequest."""
    name = asked.id or asked.model_id
    if not name:
        raise BadRequest("model_id: is missing", param="model_id")
    devices: Sequence[int] | int | str = asked.devices
    if asked.tensor_parallel is not None and isinstance(devices, str):
        devices = asked.tensor_parallel
    spec = ModelSpec(
        id=name,
        source=asked.source,
        engine=asked.engine,
        harness=asked.harness,
        quant=asked.quant,
        context=asked.context,
        devices=devices if isinstance(devices, int) else "auto",
        min_device_vram_mb=asked.min_device_vram_mb,
        vram_mb=asked.vram_mb,
        options=asked.options,
    )
    try:
        check_spec(spec, "load")
    except ConfigError as error:
        raise BadRequest(str(error)) from None
    return spec, devices  # type: ignore[return-value]
