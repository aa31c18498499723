"""The data path of a node, from an exchange to its answer and its trail; the engine process is a script."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from cortex.core import logging as core_logging
from cortex.core.errors import (
    BadRequest,
    CortexError,
    EngineFailed,
    ModelNotFound,
    Overloaded,
    UnsupportedMediaType,
    UpstreamTimeout,
)
from cortex.core.logging import LevelFilter
from cortex.core.model_spec import ModelSpec
from cortex.neuron import generation as subject
from cortex.neuron.config import Limits
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.generation import Generation
from cortex.neuron.metrics import Metrics
from cortex.neuron.models import Models
from cortex.neuron.replica import Replica, Running
from cortex.serving.exchange import Exchange, Headers
from cortex.serving.head import Head
from cortex.wire.engine_api import Chunk, Finished, Kind, Progress, ReplicaInfo, Timings, Usage
from cortex.wire.errors import ErrorBody, RemoteError
from cortex.wire.sse import Trailer, decode_trailer

CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RERANK = "/v1/rerank"
HELLO = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
USAGE, TIMINGS = Usage(7, 2, 3), Timings(1.0, 2.0, 3.0, 3)
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ" + (
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HANG, UNTIL_KEEP_ALIVE = "hang", "until keep-alive"

Event = Progress | Chunk | Finished
Step = Event | CortexError | str


def chunk(text: str, reason: str | None = None) -> Chunk:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "demo"}
    return Chunk("1", json.dumps({**head, "choices": [choice]}).encode())


PREFILL, END = Progress("1", "prefill", 7, 7, 3), Finished("1", "stop", USAGE, TIMINGS)
ANSWER: list[Step] = [PREFILL, chunk("Hi"), chunk(" you", "stop"), END]


class Wire:
    """Keeps what is sent, and lets a test wait for it."""

    def __init__(self) -> None:
        self.sent = b""
        self._more = anyio.Event()

    def send(self, data: bytes) -> None:
        self.sent += data
        self._more.set()

    async def writable(self) -> None:
        pass

    def when_writable(self, call: Callable[[], None]) -> bool:
        return False

    def complete(self, *, reusable: bool) -> None:
        pass

    async def has(self, piece: bytes) -> None:
        while piece not in self.sent:
            self._more = anyio.Event()
            await self._more.wait()

    @property
    def body(self) -> bytes:
        return self.sent.partition(b"\r\n\r\n")[2]

    @property
    def head(self) -> dict[str, str]:
        lines = self.sent.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return dict(line.split(": ", 1) for line in lines)


@dataclass
class ScriptedProcess:
    """Answers every request with the same steps: events, an error, or a wait."""

    steps: Sequence[Step]
    wire: Wire
    asked: list[tuple[Kind, dict[str, Any], int]] = field(default_factory=list)
    left: int = 0

    async def generate(self, kind: Kind, body: bytes, choices: int, request_id: str) -> AsyncGenerator[Event, None]:
        self.asked.append((kind, json.loads(body), choices))
        try:
            for step in self.steps:
                if isinstance(step, CortexError):
                    raise step
                elif step == HANG:
                    await anyio.sleep_forever()
                elif isinstance(step, str):
                    await self.wire.has(b": keep-alive")
                else:
                    yield step
        finally:
            self.left += 1


class OneModel:
    """The table of a node that has one model."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def get(self, model: str) -> Replica:
        if model != self._replica.spec.id:
            raise ModelNotFound(model)
        return self._replica


class Stage:
    """A node with one replica, whose engine plays *steps*."""

    def __init__(
        self,
        steps: Sequence[Step] = ANSWER,
        capabilities: Sequence[str] = ("chat", "completions"),
        queue: int = 8,
        limits: Limits | None = None,
        **info: Any,
    ) -> None:
        self.wire = Wire()
        self.process = ScriptedProcess(steps, self.wire)
        became = ReplicaInfo(
            engine="fake", engine_version="1", context_tokens=9, slots=1, capabilities=tuple(capabilities), **info
        )
        self.replica = Replica(ModelSpec(id="demo", engine="simulated"), "auto", queue, state="ready")
        self.replica.running = Running(cast(EngineProcess, self.process), became, [0])
        self.metrics = Metrics()
        self._generation = Generation(cast(Models, OneModel(self.replica)), self.metrics, limits or Limits())

    async def answer(self, path: str = CHAT, headers: Headers | None = None, **body: Any) -> None:
        """Answer one request as a connection does, which turns a failure in mid-answer into its last words."""
        sent = [(b"content-type", b"application/json")] if headers is None else headers
        raw = json.dumps({**HELLO, **body} if path == CHAT else {"model": "demo", **body}).encode()
        exchange = Exchange(self.wire, Head("POST", path, headers=sent, http_11=False), raw, "req-1")
        try:
            await self._generation(exchange)
        except CortexError as error:
            if not exchange.started:
                raise
            assert exchange.last_words is not None
            exchange.write(exchange.last_words(error))

    def ask(self, path: str = CHAT, headers: Headers | None = None, **body: Any) -> Wire:
        async def bounded() -> None:
            with anyio.fail_after(5):
                await self.answer(path, headers, **body)

        anyio.run(bounded)
        return self.wire

    def counted(self) -> list[str]:
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        return [line for line in lines if line.startswith("neuron_requests_total")]


def events_of(body: bytes) -> list[bytes]:
    return [event for event in body.split(b"\n\n") if event]


def trailer_of(body: bytes) -> Trailer:
    last = events_of(body)[-1]
    assert last.startswith(b": cortex ")
    trailer = decode_trailer(last.removeprefix(b": cortex "))
    assert trailer is not None
    return trailer


def test_a_stream_is_the_engines_chunks_the_end_and_a_trailer() -> None:
    wire = Stage().ask(stream=True)
    events = events_of(wire.body)

    assert wire.head["content-type"] == "text/event-stream; charset=utf-8"
    assert events[:2] == [b"data: " + each.data for each in ANSWER if isinstance(each, Chunk)]
    assert events[2] == b"data: [DONE]"
    assert trailer_of(wire.body) == Trailer(USAGE, TIMINGS, "stop")
    assert len(events) == 4


@pytest.mark.parametrize("asked", [False, True])
def test_usage_is_streamed_only_to_who_asked_for_it(asked: bool) -> None:
    body = Stage().ask(stream=True, stream_options={"include_usage": asked}).body
    payloads = [event for event in events_of(body) if event.startswith(b"data: {")]

    assert (b'"usage"' in b"".join(payloads)) is asked
    if asked:
        last = json.loads(payloads[-1].removeprefix(b"data: "))
        assert (last["id"], last["choices"]) == ("chatcmpl-1", [])
        assert last["usage"]["total_tokens"] == 9
        assert events_of(body)[3] == b"data: [DONE]"


def test_a_whole_answer_is_the_collected_stream_with_the_trailer_as_a_header() -> None:
    wire = Stage().ask()
    whole = json.loads(wire.body)

    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "Hi you"}
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert decode_trailer(wire.head["x-cortex-trailer"].encode()) == Trailer(USAGE, TIMINGS, "stop")


def test_an_embedding_is_passed_on_as_the_engine_made_it() -> None:
    vectors = b'{"object":"list","data":[]}'
    stage = Stage([PREFILL, Chunk("1", vectors), END], ["embeddings"])
    wire = stage.ask(EMBEDDING, input="x")

    assert wire.body == vectors
    assert decode_trailer(wire.head["x-cortex-trailer"].encode()) is not None


def test_scores_become_documents_in_the_order_of_their_worth() -> None:
    stage = Stage([Chunk("1", b'{"scores":[0.25,0.5]}'), END], ["rerank"])
    whole = json.loads(stage.ask(RERANK, query="q", documents=["a", "b"], return_documents=True).body)

    assert [(each["index"], each["relevance_score"], each["document"]) for each in whole["results"]] == [
        (1, 0.5, {"text": "b"}),
        (0, 0.25, {"text": "a"}),
    ]
    assert (whole["model"], whole["usage"]["total_tokens"]) == ("demo", 7)
    assert stage.process.asked == [("rerank", {"query": "q", "documents": ["a", "b"]}, 1)]


@pytest.mark.parametrize("scores", [b'{"scores":[0.5]}', b'{"scores":[0.5,7]}', b'{"scores":[0.5,"x"]}', b"{}"])
def test_scores_that_cannot_be_right_are_the_engines_fault(scores: bytes) -> None:
    with pytest.raises(EngineFailed):
        Stage([Chunk("1", scores), END], ["rerank"]).ask(RERANK, query="q", documents=["a", "b"])


def test_what_the_template_has_no_switch_for_is_named_as_ignored() -> None:
    asked = {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": False, "tone": 1}, "user": "me"}
    plain = Stage().ask(**asked)
    thinker = Stage(template_variables=("enable_thinking",)).ask(**asked)

    assert plain.head["x-cortex-ignored"] == (
        "user, chat_template_kwargs.enable_thinking, chat_template_kwargs.tone, reasoning_effort"
    )
    assert thinker.head["x-cortex-ignored"] == "user, chat_template_kwargs.tone"


def test_a_capability_that_a_model_was_not_loaded_for_says_how_it_would_be() -> None:
    stage = Stage(hints={"embeddings": "set options = { embeddings = true }"})

    with pytest.raises(BadRequest, match=r"it offers chat, completions: set options = \{ embeddings = true \}"):
        stage.ask(EMBEDDING, input="x")


def test_the_engine_gets_what_it_is_allowed_to_see() -> None:
    stage = Stage()
    wire = stage.ask(n=2, temperature=0.5, user="me", metadata={"a": "b"})

    assert stage.process.asked == [
        ("chat", {"messages": HELLO["messages"], "n": 2, "temperature": 0.5}, 2),
    ]
    assert wire.head["x-cortex-ignored"] == "metadata, user"


def test_a_gateway_may_name_the_model_beside_the_request() -> None:
    """An alias is the client's word; the body goes through as it came."""
    assert b"Hi you" in Stage().ask(headers=[(b"x-cortex-model", b"demo")], model="an-alias").body
    with pytest.raises(ModelNotFound):
        Stage().ask(headers=[(b"x-cortex-model", b"d\xffmo")])


REFUSED: dict[str, tuple[dict[str, Any], type[CortexError], str]] = {
    "another model": ({"model": "other"}, ModelNotFound, "other"),
    "a kind it was not loaded for": ({"path": EMBEDDING, "input": "x"}, BadRequest, "does not offer embeddings; it"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}]},
        BadRequest,
        "takes no images",
    ),
    "a field that is wrong": ({"n": 0}, BadRequest, "n: "),
    "another content type": ({"headers": [(b"content-type", b"text/plain")]}, UnsupportedMediaType, "content-type"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("asked", "raised", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_served_is_refused_before_the_first_byte(
    asked: dict[str, Any], raised: type[CortexError], said: str, stream: bool
) -> None:
    stage = Stage()
    asked = asked if "path" in asked else {**asked, "stream": stream}
    with capture_logs() as logs, pytest.raises(raised, match=said):
        stage.ask(**asked)

    assert stage.wire.sent == b""
    assert stage.process.asked == []
    assert logs == []


def test_an_image_is_served_by_a_replica_that_sees() -> None:
    stage = Stage(capabilities=["chat", "vision"])
    part = {"type": "image_url", "image_url": {"url": PNG}}

    assert b"Hi you" in stage.ask(messages=[{"role": "user", "content": [part]}]).body


def test_a_full_queue_is_a_429() -> None:
    stage = Stage(queue=0)
    stage.replica.in_flight = 1
    with pytest.raises(Overloaded) as caught:
        stage.ask(stream=True)

    assert (caught.value.status, caught.value.retry_after_seconds) == (429, 2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_by_the_engine_is_a_clean_status(stream: bool) -> None:
    refusal = RemoteError(400, ErrorBody("too long", "invalid_request_error", "context_length_exceeded", "messages"))
    stage = Stage([refusal])
    with pytest.raises(RemoteError) as caught:
        stage.ask(stream=stream)

    assert caught.value is refusal
    assert stage.wire.sent == b""


@pytest.mark.parametrize("after", ["chunk", "keep-alive"])
def test_a_stream_that_breaks_ends_in_an_error_and_never_looks_whole(
    after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trailer says that nothing more is to come, so that a gateway passes the error on and adds none of its own."""
    monkeypatch.setattr(subject, "PATIENCE_SECONDS", 0.0)
    begun: list[Step] = [PREFILL, chunk("Hi")] if after == "chunk" else [PREFILL, UNTIL_KEEP_ALIVE]
    body = Stage([*begun, EngineFailed("died")]).ask(stream=True).body
    error = json.loads(events_of(body)[-2].removeprefix(b"data: "))["error"]

    assert (error["code"], error["message"]) == ("engine_failed", "died")
    assert trailer_of(body).finish_reason == "error"
    assert b"[DONE]" not in body


def trail(stage: Stage, **body: Any) -> list[dict[str, Any]]:
    """Return what is logged of one request."""
    with capture_logs() as logs:
        try:
            stage.ask(**body)
        except CortexError:
            pass
    assert {line["request"] for line in logs} == {"req-1"}
    return [cast(dict[str, Any], line) for line in logs]


def test_a_generation_leaves_its_trail_in_order_under_its_request_id() -> None:
    stage = Stage()
    started, prefilled, decoded, finished = trail(stage, max_tokens=5, temperature=0.5, seed=1)

    assert [started["event"], prefilled["event"]] == ["generation_started", "prefill_done"]
    assert [decoded["event"], finished["event"]] == ["decode_done", "generation_finished"]
    assert (started["prompt_tokens"], started["cached_tokens"], started["max_tokens"]) == (7, 3, 5)
    assert started["sampling"] == {"temperature": 0.5, "seed": 1}
    assert (started["engine"], started["devices"], started["model"]) == ("simulated", [0], "demo")
    assert decoded["tokens"] == 2
    assert (finished["reason"], finished["prompt_tokens"], finished["completion_tokens"]) == ("stop", 7, 2)
    assert (finished["queue_ms"], finished["prefill_ms"], finished["decode_ms"]) == (1.0, 2.0, 3.0)
    assert "error" not in finished
    elapsed = [started["queue_seconds"], prefilled["elapsed_seconds"], finished["total_seconds"]]
    assert elapsed == sorted(elapsed)
    assert stage.counted() == ['neuron_requests_total{model="demo",reason="stop"} 1.0']


TRAILS: dict[str, tuple[list[Step], list[str], str]] = {
    "an engine that tells no prefill": (
        [chunk("Hi"), END],
        ["generation_started", "prefill_done", "decode_done", "generation_finished"],
        "stop",
    ),
    "a refusal": ([EngineFailed("no")], ["generation_finished"], "failed"),
    "a failure in prefill": ([PREFILL, EngineFailed("no")], ["generation_started", "generation_finished"], "failed"),
    "a failure in mid-answer": (
        [PREFILL, chunk("Hi"), EngineFailed("no")],
        ["generation_started", "prefill_done", "decode_done", "generation_finished"],
        "failed",
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("steps", "events", "reason"), TRAILS.values(), ids=TRAILS.keys())
def test_every_generation_has_a_last_line(steps: list[Step], events: list[str], reason: str, stream: bool) -> None:
    lines = trail(Stage(steps), stream=stream)

    assert [line["event"] for line in lines] == events
    assert lines[-1]["reason"] == reason
    assert lines[-1].get("error") == ("no" if reason == "failed" else None)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_is_an_abort_with_what_was_used(stream: bool) -> None:
    stage = Stage([PREFILL, chunk("Hi"), HANG])

    async def scene() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: stage.answer(stream=stream))
            await anyio.wait_all_tasks_blocked()
            assert stage.replica.in_flight == 1
            tasks.cancel_scope.cancel()

    with capture_logs() as logs:
        anyio.run(scene)
    *before, last = logs

    assert [line["event"] for line in before] == ["generation_started", "prefill_done", "decode_done"]
    assert (last["event"], last["reason"]) == ("generation_finished", "aborted")
    assert (last["prompt_tokens"], last["completion_tokens"]) == (7, 1)
    assert stage.process.left == 1
    assert stage.replica.in_flight == 0
    assert stage.counted() == ['neuron_requests_total{model="demo",reason="aborted"} 1.0']


def test_what_an_abort_saves_is_counted_and_told() -> None:
    """Whole answers of this model had two tokens, and one had come."""
    stage = Stage(ANSWER)
    stage.ask()
    stage.process.steps = [PREFILL, chunk("Hi"), HANG]

    async def scene() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.answer)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    with capture_logs() as logs:
        anyio.run(scene)

    assert logs[-1]["saved_tokens"] == 1
    assert 'neuron_cancelled_tokens_saved_total{model="demo"} 1.0' in generate_latest(stage.metrics.registry).decode()


@pytest.mark.parametrize("level", ["debug", "trace"])
def test_tokens_are_logged_at_trace_level_only(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_logging._state, "filter", LevelFilter(level))
    lines = [line for line in trail(Stage()) if line["event"] == "token"]

    assert [line["index"] for line in lines] == ([1, 2] if level == "trace" else [])
    assert all("chatcmpl-1" in line["chunk"] for line in lines)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_never_begins_is_given_up(stream: bool) -> None:
    """The client hears why, and the engine is told to stop."""
    stage = Stage([Progress("1", "prefill", 0, 5), HANG], limits=Limits(first_token_seconds=0.01))
    with pytest.raises(UpstreamTimeout, match=r"no token for 0\.01 s"):
        stage.ask(stream=stream)

    assert stage.process.left == 1


def test_an_engine_that_stops_in_mid_answer_is_given_up() -> None:
    stage = Stage([*ANSWER[:-1], HANG], limits=Limits(first_token_seconds=60, idle_token_seconds=0.01))
    wire = stage.ask(stream=True)

    assert b"upstream_timeout" in wire.body
    assert b"[DONE]" not in wire.body
    assert stage.process.left == 1
