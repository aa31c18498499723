"""Whatever is sent to a node: an answer in time, in the envelope, and never an internal error.

`CORTEX_FUZZ=thorough` looks much longer.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from structlog.testing import capture_logs

from bare_client import Answer, Line, Sent
from cortex.neuron.app import Neuron
from cortex.neuron.config import Harness, NeuronConfig, SimulatedDevice
from cortex.neuron.generation import Generation
from cortex.neuron.routes import NodeRoutes
from cortex.serving.protocol import Site, protocol_for
from cortex.wire.node_api import LoadRequest, UnloadRequest
from cortex.wire.openai import CHAT, COMPLETION, EMBEDDING, KINDS, ChatRequest, CompletionRequest, EmbeddingRequest
from fake_fleet import until
from good_requests import GOOD
from json_fuzz import Bodies

EXAMPLES = 1000 if os.environ.get("CORTEX_FUZZ") == "thorough" else 40
DEMO = "org/demo"
SPEC = {"id": DEMO, "engine": "simulated", "options": {"load_seconds": 0, "memory_mb": 1000, "tokens_per_second": 1e6}}
TOKENIZE = {"model": DEMO, "content": "hi"}
# What a node of one small device that is taken cannot do.
DELIBERATE = frozenset({"insufficient_memory", "no_feasible_node"})

BODIES: dict[str, tuple[Any, list[Any]]] = {
    "/models/load": (LoadRequest, [SPEC]),
    "/models/estimate": (LoadRequest, [SPEC]),
    "/models/unload": (UnloadRequest, [{"model_id": "nope"}]),
    "/tokenize": (ChatRequest, [TOKENIZE, {**TOKENIZE, "spec": SPEC}]),
    CHAT: (ChatRequest, GOOD[CHAT]),
    COMPLETION: (CompletionRequest, GOOD[COMPLETION]),
    EMBEDDING: (EmbeddingRequest, GOOD[EMBEDDING]),
}


@asynccontextmanager
async def node_and_line() -> AsyncGenerator[Line, None]:
    """A connection to a node whose only device is taken by the model that it has."""
    neuron = Neuron(NeuronConfig(simulated_devices=[SimulatedDevice("A", 1300)], harnesses=[Harness("simulated")]))
    routes = NodeRoutes(neuron)
    application = Starlette(routes=routes.table(), exception_handlers=dict(routes.errors()))
    async with neuron.lifespan(application):
        generate = Generation(neuron.models, neuron.metrics, neuron.config.limits)
        site = Site(dict.fromkeys(KINDS, generate), application, neuron.drain)
        kind, state = protocol_for(site), SimpleNamespace(connections=set(), tasks=set(), total_requests=0)
        server = await asyncio.get_running_loop().create_server(lambda: kind(None, state, {}), "127.0.0.1", 0)
        line = Line(server.sockets[0].getsockname()[1])
        try:
            loaded = await line.ask(Sent("POST", "/models/load", (), json.dumps(SPEC).encode()))
            assert loaded.status == 200, loaded.body
            yield line
        finally:
            line.hang_up()
            server.close()
            await until(lambda: not state.connections)


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable[[Sent], Answer]]:
    with (
        capture_logs() as logs,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(node_and_line()) as line,
    ):
        yield lambda sent: portal.call(partial(line.ask, sent))
    assert [each for each in logs if each["event"] == "request_crashed"] == []


@cache
def near(path: str) -> st.SearchStrategy[bytes]:
    struct, good = BODIES[path]
    schema = msgspec.json.schema(struct)
    known = [{**each, "model": DEMO} if "model" in each else each for each in good]
    names = ("nope", "", "../x") if path == "/models/unload" else (DEMO, DEMO, "", "../x")
    return Bodies(schema["$defs"], names, ("model", "id", "model_id")).near(schema, known)


@pytest.mark.parametrize("path", BODIES)
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_to_a_node_has_an_answer_and_no_internal_error(
    ask: Callable[[Sent], Answer], path: str, data: st.DataObject
) -> None:
    answer = ask(Sent("POST", path, ((b"content-type", b"application/json"),), data.draw(near(path))))

    event(f"status {answer.status}")
    if answer.status >= 400:
        error = json.loads(answer.body)["error"]
        assert error.keys() == {"message", "type", "code", "param"}
        assert answer.status < 500 or error["code"] in DELIBERATE
    assert ask(Sent("GET", "/health")).status == 200
