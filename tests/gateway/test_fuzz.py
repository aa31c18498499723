"""Whatever is sent to an operation of the document: an answer in time, in its dialect, and never an internal error.

`CORTEX_FUZZ=thorough` looks much longer.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from urllib.parse import quote

import h11
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.core.errors import CortexError
from cortex.core.model_spec import ModelSpec
from cortex.gateway.openapi import document, envelope_of
from cortex.wire.errors import DONE, openai_body
from cortex.wire.openai import KINDS, read_request
from cortex.wire.sse import data_event, encode_trailer, trailer_event
from fake_fleet import SOON_SECONDS, TRAILER, Call, FakeFleet
from json_fuzz import Bodies

DOCUMENT = document()
BODIES = Bodies(DOCUMENT["components"]["schemas"], ("m", "m", "m", "short", "cold", "nope", "m:latest", "", "a/b"))
EXAMPLES = 2000 if os.environ.get("CORTEX_FUZZ") == "thorough" else 25
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
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
WHOLE: dict[str, Any] = {
    "chat": {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [MESSAGE], "usage": USAGE}
}


@dataclass(frozen=True)
class Sent:
    """A request as it goes out."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    @property
    def raw(self) -> bytes:
        fields = [(b"host", b"localhost"), (b"content-length", b"%d" % len(self.body)), *self.headers]
        lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        return f"{self.method} {self.target} HTTP/1.1\r\n".encode("latin-1") + lines + b"\r\n" + self.body


@dataclass(frozen=True)
class Answer:
    """An answer; *body* is whole unless the answer has no end."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes = b""


class Line:
    """A connection that is kept for as long as the gateway keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, sent: Sent, *, endless: bool = False) -> Answer:
        """Return the answer to *sent*, or of one that is *endless* the head."""
        async with asyncio.timeout(SOON_SECONDS):
            if self._stream is None:
                self._stream = await asyncio.open_connection("127.0.0.1", self._port)
            self._stream[1].write(sent.raw)
            parser = h11.Connection(h11.CLIENT)
            parser.send(h11.Request(method=sent.method, target="/", headers=[("host", "localhost")]))
            parser.send(h11.EndOfMessage())
            head = await self._event(parser)
            assert isinstance(head, h11.Response)
            headers = dict(head.headers.raw_items())
            answer = Answer(head.status_code, {name.lower(): value for name, value in headers.items()})
            if endless and head.status_code == 200:
                self.hang_up()
                return answer
            pieces = []
            while isinstance(event := await self._event(parser), h11.Data):
                pieces.append(bytes(event.data))
            assert isinstance(event, h11.EndOfMessage), event
        if answer.headers.get(b"connection") == b"close":
            self.hang_up()
        return Answer(answer.status, answer.headers, b"".join(pieces))

    async def _event(self, parser: h11.Connection) -> Any:
        assert self._stream is not None
        while (event := parser.next_event()) is h11.NEED_DATA:
            parser.receive_data(await self._stream[0].read(65536))
        return event

    def hang_up(self) -> None:
        if self._stream is not None:
            self._stream[1].transport.abort()
        self._stream = None


# what is sent ---------------------------------------------------------------------------------------------------------

CONTENT_TYPES = (
    b"application/json",
    b"application/json; charset=utf-8",
    b"text/plain",
    b"application/json;charset=x",
    b"",
)
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
PARAMETERS = (
    "m",
    "a",
    "short",
    "resp_0",
    "0",
    "-1",
    "1e9",
    "9" * 30,
    "",
    ".",
    "..",
    "a/b",
    "\x00",
    "é",
    "a\r\nb",
    "?",
    "#",
)
RAW = ("%zz", "%ff", "%", "..%2f..%2f", "a%00b", "//", "%ed%a0%80", "a;b", "[")


@cache
def near(operation: str) -> st.SearchStrategy[Sent]:
    """Return requests that are of *operation*, or nearly are."""
    path, method, told = OPERATIONS[operation]
    placed = {place: [each["name"] for each in told.get("parameters", ()) if each["in"] == place] for place in PLACES}
    asked = told.get("requestBody")
    bodies = BODIES.near(asked["content"]["application/json"]["schema"]) if asked else st.just(b"")

    @st.composite
    def requests(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Sent:
        values = st.sampled_from(PARAMETERS).map(lambda text: quote(text, safe="")) | st.sampled_from(RAW)
        target = path.format(**{name: draw(values) for name in placed["path"]})
        query = [f"{name}={draw(values)}" for name in placed["query"] if draw(st.booleans())]
        kind = draw(st.sampled_from((CONTENT_TYPES[0],) * 8 + CONTENT_TYPES))
        headers = draw(st.lists(st.sampled_from(HEADERS), max_size=2)) if draw(st.integers(0, 3)) == 0 else []
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
        await call.respond(200, WHOLE.get(kind, {}), x_cortex_trailer=encode_trailer(TRAILER).decode())


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
    answer = ask(data.draw(near(operation)), endless=path == "/fleet/events")

    assert answer.status < 500
    assert str(answer.status) in told["responses"] or ("{" in path and answer.status in ELSEWHERE)
    if answer.status >= 400:
        check_envelope(path, answer.body)
    assert ask(Sent("GET", "/health")).status == 200
