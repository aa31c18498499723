"""Whatever is sent to an operation of the document: an answer in time, in its dialect, and never an internal error.

`CORTEX_FUZZ=thorough` looks much longer.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any
from urllib.parse import quote

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from bare_client import Answer, Line, Sent
from cortex.core.errors import CortexError
from cortex.core.model_spec import ModelSpec
from cortex.gateway.openapi import document, envelope_of
from cortex.wire.errors import DONE, openai_body
from cortex.wire.openai import KINDS, read_request
from cortex.wire.sse import data_event, encode_trailer, trailer_event
from fake_fleet import TRAILER, Call, FakeFleet
from good_requests import GOOD
from json_fuzz import Bodies

DOCUMENT = document()
BODIES = Bodies(DOCUMENT["components"]["schemas"], ("m", "m", "m", "short", "cold", "nope", "m:latest", "", "a/b"))
EXAMPLES = 2000 if os.environ.get("CORTEX_FUZZ") == "thorough" else 75
PLACES = ("path", "query", "header")
OPERATIONS = {
    f"{method.upper()} {path}": (path, method, told)
    for path, methods in DOCUMENT["paths"].items()
    for method, told in methods.items()
}
# A path that a parameter makes another one may have no route, or one for another method.
ELSEWHERE = frozenset({404, 405})

STREAM = b"".join(
    data_event(json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **chunk}).encode())
    for chunk in (
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    )
)
MESSAGE = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
TEXT = {"index": 0, "text": "Hi", "finish_reason": "stop"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
WHOLE: dict[str, dict[str, Any]] = {
    "chat": {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [MESSAGE], "usage": USAGE},
    "completion": {"id": "c", "object": "text_completion", "choices": [TEXT], "usage": USAGE},
}


# what is sent ---------------------------------------------------------------------------------------------------------

JSON_TYPE = b"application/json"
OTHER_TYPES = (b"application/json; charset=utf-8", b"text/plain", b"application/json;charset=x", b"")
HEADERS = (
    (b"x-request-id", b"a" * 200),
    (b"x-request-id", b"\xff\xfe"),
    (b"authorization", b"Bearer \xe4"),
    (b"x-api-key", b"'"),
    (b"accept", b"text/event-stream"),
    (b"anthropic-version", b"2023-06-01"),
    (b"anthropic-beta", b"x,,"),
    (b"x-session-id", b"\x80" * 50),
    (b"content-encoding", b"gzip"),
    (b"origin", b"null"),
)
PARAMETERS = ["m", "a", "short", "resp_0", "0", "-1", "1e9", "9" * 30, *" ./?#\x00é", "", "..", "a/b", "a\r\nb"]
RAW = ("%zz", "%ff", "%", "..%2f..%2f", "a%00b", "//", "%ed%a0%80", "a;b", "[")


@cache
def near(operation: str) -> st.SearchStrategy[Sent]:
    """Return requests that are of *operation*, or nearly are."""
    path, method, told = OPERATIONS[operation]
    placed = {place: [each["name"] for each in told.get("parameters", ()) if each["in"] == place] for place in PLACES}
    asked = told.get("requestBody")
    schema = asked["content"]["application/json"]["schema"] if asked else {}
    bodies = BODIES.near(schema, GOOD.get(path, ())) if asked else st.just(b"")

    @st.composite
    def requests(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Sent:
        values = st.sampled_from(PARAMETERS).map(lambda text: quote(text, safe="")) | st.sampled_from(RAW)
        target = path.format(**{name: draw(values) for name in placed["path"]})
        query = [f"{name}={draw(values)}" for name in placed["query"] if draw(st.booleans())]
        kind = draw(st.sampled_from(OTHER_TYPES)) if draw(st.integers(0, 11)) == 0 else JSON_TYPE
        headers = draw(st.lists(st.sampled_from(HEADERS), max_size=2)) if draw(st.integers(0, 7)) == 0 else []
        shown = "?".join([target, "&".join(query)]) if query else target
        return Sent(method.upper(), shown, ((b"content-type", kind), *headers), draw(bodies))

    return requests()


# what answers ---------------------------------------------------------------------------------------------------------


async def strict(call: Call) -> None:
    """Answer as a node does: what its reader refuses is refused, and everything else is answered."""
    kind = KINDS[call.path]
    try:
        asked = read_request(kind, call.body)
    except CortexError as error:
        await call.respond(error.status, openai_body(error))
        return
    if asked.stream:
        await call.open_events()
        await call.events(STREAM + DONE + trailer_event(TRAILER))
        await call.close_events()
    else:
        whole = vectors_for(call) if kind == "embedding" else WHOLE.get(kind, {})
        await call.respond(200, whole, x_cortex_trailer=encode_trailer(TRAILER).decode())


def vectors_for(call: Call) -> dict[str, Any]:
    """Return one embedding a text."""
    given = call.json()["input"]
    count = 1 if isinstance(given, str) else len(given)
    data = [{"object": "embedding", "index": at, "embedding": [0.0, 1.0]} for at in range(count)]
    return {"object": "list", "data": data, "usage": USAGE}


def check_envelope(path: str, body: bytes) -> None:
    """Fail unless *body* is an error as the dialect of *path* tells it."""
    told = json.loads(body)
    error = told["error"]
    if envelope_of(path) == "OllamaError":
        assert (told.keys(), type(error)) == ({"error"}, str)
    elif envelope_of(path) == "AnthropicError":
        assert (told.keys(), told["type"]) == ({"type", "error", "request_id"}, "error")
        assert error.keys() == {"type", "message"}
    else:
        assert told.keys() == {"error"}
        assert error.keys() == {"message", "type", "code", "param"}


@asynccontextmanager
async def gateway_and_node() -> AsyncGenerator[Line, None]:
    """A connection to a gateway before a node that reads all of what it is sent."""
    async with FakeFleet() as fleet:
        node = await fleet.node("a")
        for path in KINDS:
            node.script(strict, path)
        node.script(lambda call: call.respond(200, {"tokens": [1], "count": 1}), "/tokenize")
        gateway = await fleet.gateway(ModelSpec(id="m", aliases=("short",)), ModelSpec(id="cold"))
        line = Line(gateway.port)
        yield line
        line.hang_up()


@pytest.fixture
def ask() -> Iterator[Callable[..., Answer]]:
    """Ask a gateway in another thread: what is drawn must not be drawn within its event loop."""
    with (
        start_blocking_portal(backend_options={"use_uvloop": True}) as portal,
        portal.wrap_async_context_manager(gateway_and_node()) as line,
    ):
        yield lambda sent, **more: portal.call(partial(line.ask, sent, **more))


@pytest.mark.parametrize("operation", OPERATIONS)
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_has_an_answer_of_the_document_and_no_internal_error(
    ask: Callable[..., Answer], operation: str, data: st.DataObject
) -> None:
    path, _, told = OPERATIONS[operation]
    answer = ask(data.draw(near(operation)), endless=path in ("/fleet/events", "/fleet/live"))

    event(f"status {answer.status}")
    assert answer.status < 500
    assert str(answer.status) in told["responses"] or ("{" in path and answer.status in ELSEWHERE)
    if answer.status >= 400:
        check_envelope(path, answer.body)
    assert ask(Sent("GET", "/health")).status == 200
