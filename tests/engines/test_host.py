"""The host of an engine, in this process: a scripted engine on one side, its messages on the other."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, ClassVar, NoReturn

import anyio
import pytest
from anyio.abc import UNIXSocketStream
from anyio.lowlevel import checkpoint

from cortex.core.errors import BadRequest
from cortex.engines import host as subject
from cortex.engines.base import Engine, Event, LoadError, OnProgress
from cortex.engines.host import Host, load_engine
from cortex.wire.engine_api import (
    Abort,
    Chunk,
    EngineSpec,
    Estimate,
    Estimated,
    Failed,
    Finished,
    Framer,
    FromEngine,
    Generate,
    Load,
    Loaded,
    Measure,
    Ping,
    Pong,
    Progress,
    Ready,
    ReplicaInfo,
    Shutdown,
    Started,
    Timings,
    ToEngine,
    Tokenize,
    Usage,
    decode_from_engine,
    encode_message,
)

SPEC = EngineSpec(model="m", engine="scripted", path="", devices=())


class Scripted:
    """Does what the body of a request says: `hold` waits for `go`, anything else answers at once."""

    name: ClassVar[str] = "scripted"

    def __init__(self, slots: int = 1) -> None:
        self.version = "1.0"
        self.device_kinds: tuple[str, ...] = ("cpu",)
        self.slots = slots
        self.go = anyio.Event()
        self.started: list[str] = []
        self.ended: list[str] = []
        self.closed = False

    async def estimate(self, spec: EngineSpec) -> Estimate:
        return Estimate({0: 5})

    async def load(self, spec: EngineSpec, on_progress: OnProgress) -> ReplicaInfo:
        if spec.path == "bad":
            raise LoadError("bad is not a model")
        on_progress("load", 1, 2)
        await checkpoint()
        return ReplicaInfo(engine="scripted", engine_version="1.0", context_tokens=9, slots=self.slots, capabilities=())

    async def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        self.started.append(request.id)
        try:
            yield Progress(request.id, "prefill", 7, 7)
            yield Chunk(request.id, b"1")
            match request.body:
                case b"hold" | b"hold, then stumble":
                    await self.go.wait()
                case b"talk, then stumble":
                    while True:
                        yield Chunk(request.id, b"2")
                case b"crash":
                    raise ZeroDivisionError("of all things")
                case b"refuse":
                    raise BadRequest("n: too many", param="n")
                case b"stop short":
                    return
            yield Finished(request.id, "stop", Usage(7, 1), Timings(prefill_ms=3))
            if request.body == b"linger":
                await self.go.wait()
        finally:
            self.ended.append(request.id)
            if request.body.endswith(b"then stumble"):
                raise ZeroDivisionError("while it was ended")

    async def tokenize(self, request: Tokenize) -> bytes:
        return b'{"tokens":[],"count":0}'

    async def close(self) -> None:
        self.closed = True


class Left(BaseException):
    """Stands for the end of the process."""


class Neuron:
    """The other end of the socket: says things, and keeps what it hears."""

    def __init__(self, stream: UNIXSocketStream, engine: Scripted) -> None:
        self.engine = engine
        self.heard: list[FromEngine] = []
        self._stream = stream
        self._framer = Framer()

    async def says(self, *messages: ToEngine) -> None:
        await self._stream.send(b"".join(encode_message(message) for message in messages))

    async def hears(self, wanted: Callable[[FromEngine], bool]) -> FromEngine:
        """Return the next message that is *wanted*, and keep those before it."""
        while not any(wanted(message) for message in self.heard):
            self.heard += map(decode_from_engine, self._framer.feed(await self._stream.receive()))
        at = next(at for at, message in enumerate(self.heard) if wanted(message))
        return self.heard.pop(at)

    async def end_of(self, id_: str) -> Finished | Failed:
        end = await self.hears(lambda message: message.id == id_ and isinstance(message, Finished | Failed))
        assert isinstance(end, Finished | Failed)
        return end

    async def loads(self) -> None:
        await self.says(Load("load", SPEC))
        await self.hears(lambda message: isinstance(message, Loaded))

    async def hangs_up(self) -> None:
        await self._stream.aclose()


Scene = Callable[[Neuron], Awaitable[None]]


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(status: int) -> NoReturn:
        raise Left(status)

    monkeypatch.setattr(subject.os, "_exit", leave)


def play(scene: Scene, slots: int = 1, *, leaves: bool = False) -> Scripted:
    """Run *scene* against a host; *leaves* says that the host is to end by itself."""
    engine = Scripted(slots)

    async def run() -> bool:
        ours, theirs = socket.socketpair()
        async with (
            await UNIXSocketStream.from_socket(ours) as near,
            await UNIXSocketStream.from_socket(theirs) as far,
        ):
            left = False
            try:
                with anyio.fail_after(5):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(Host(engine, far).run)
                        await scene(Neuron(near, engine))
                        if leaves:
                            await anyio.sleep_forever()
                        tasks.cancel_scope.cancel()
            except* Left:
                left = True
            return left

    assert anyio.run(run) is leaves
    return engine


def aborted(end: Finished | Failed) -> Usage:
    """Return what an aborted request had used."""
    assert isinstance(end, Finished)
    assert end.reason == "aborted"
    return end.usage


def test_it_introduces_itself_loads_and_estimates() -> None:
    async def scene(neuron: Neuron) -> None:
        assert await neuron.hears(lambda _: True) == Ready("", "scripted", "1.0", ("cpu",))
        await neuron.says(Measure("e", SPEC), Load("l", SPEC))

        assert await neuron.hears(lambda message: message.id == "e") == Estimated("e", Estimate({0: 5}))
        loaded = await neuron.hears(lambda message: isinstance(message, Loaded))
        assert loaded.id == "l"
        assert await neuron.hears(lambda message: isinstance(message, Progress)) == Progress("l", "load", 1, 2)

    play(scene)


def test_a_load_that_fails_says_why() -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.says(Load("l", EngineSpec(model="m", engine="scripted", path="bad", devices=())))

        assert await neuron.end_of("l") == Failed("l", 503, "bad is not a model", "model_load_failed")

    play(scene)


def test_an_answer_keeps_its_order_and_tells_how_long_it_queued() -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("a", "chat", b"hold"), Generate("b", "chat", b""))
        await neuron.hears(lambda message: message == Chunk("a", b"1"))
        assert neuron.engine.started == ["a"]
        neuron.engine.go.set()
        first, second = await neuron.end_of("a"), await neuron.end_of("b")

        assert isinstance(first, Finished)
        assert isinstance(second, Finished)
        assert (first.reason, first.usage, first.timings.prefill_ms) == ("stop", Usage(7, 1), 3)
        assert second.timings.queue_ms > first.timings.queue_ms >= 0
        begun = [Started("b"), Progress("b", "prefill", 7, 7), Chunk("b", b"1")]
        assert [m for m in neuron.heard if m.id == "b"] == begun

    play(scene)


def test_a_request_takes_a_slot_for_each_of_its_choices() -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("wide", "chat", b"hold", 2), Generate("narrow", "chat", b"hold"))
        await neuron.hears(lambda message: message == Chunk("wide", b"1"))
        assert neuron.engine.started == ["wide"]
        neuron.engine.go.set()
        await neuron.end_of("narrow")

    play(scene, slots=2)


def test_an_abort_ends_a_request_and_reports_what_was_used() -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("a", "chat", b"hold"))
        await neuron.hears(lambda message: message == Chunk("a", b"1"))
        await neuron.says(Abort("a"), Generate("b", "chat", b""))

        assert aborted(await neuron.end_of("a")) == Usage(7, 1)
        assert (await neuron.end_of("b")).id == "b"
        assert neuron.engine.ended == ["a", "b"]

    play(scene)


def test_an_abort_in_the_queue_never_starts_the_request() -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("a", "chat", b"hold"), Generate("b", "chat", b""), Abort("b"))

        assert aborted(await neuron.end_of("b")) == Usage()
        neuron.engine.go.set()
        await neuron.end_of("a")
        assert neuron.engine.started == ["a"]

    play(scene)


def test_an_abort_that_comes_with_its_request_never_starts_it() -> None:
    """A client that hangs up at once costs no prefill."""

    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("a", "chat", b"hold"), Abort("a"))

        assert aborted(await neuron.end_of("a")) == Usage()
        assert neuron.engine.started == []

    play(scene)


def test_an_abort_that_crosses_the_end_is_answered_with_the_end() -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("a", "chat", b"linger"))
        await neuron.hears(lambda message: message == Chunk("a", b"1"))
        await neuron.says(Abort("a"))
        end = await neuron.end_of("a")

        assert isinstance(end, Finished)
        assert end.reason == "stop"

    play(scene)


def test_an_abort_of_nothing_changes_nothing() -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Abort("load"), Abort("never heard of"), Generate("a", "chat", b""))

        assert isinstance(await neuron.end_of("a"), Finished)

    play(scene)


FAULTS = {
    b"crash": Failed("a", 500, "ZeroDivisionError: of all things", "engine_error"),
    b"refuse": Failed("a", 400, "n: too many", None, "n"),
    b"stop short": Failed("a", 500, "RuntimeError: the engine ended a request without finishing it", "engine_error"),
}


@pytest.mark.parametrize(("body", "said"), FAULTS.items(), ids=[body.decode() for body in FAULTS])
def test_what_goes_wrong_in_a_request_costs_that_request_only(
    body: bytes, said: Failed, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("a", "chat", body), Generate("b", "chat", b""))

        assert await neuron.end_of("a") == said
        assert isinstance(await neuron.end_of("b"), Finished)

    play(scene)
    assert ("Traceback" in capsys.readouterr().err) is (said.status == 500)


@pytest.mark.parametrize(
    ("body", "how"),
    [(b"hold, then stumble", "abort"), (b"hold, then stumble", "end"), (b"talk, then stumble", "abort")],
)
def test_an_engine_that_stumbles_while_it_ends_a_request_gives_the_slot_back(body: bytes, how: str) -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("a", "chat", body))
        await neuron.hears(lambda message: message == Chunk("a", b"1"))
        if how == "abort":
            await neuron.says(Abort("a"))
        else:
            neuron.engine.go.set()
        await neuron.end_of("a")
        await neuron.says(Generate("b", "chat", b""))

        assert isinstance(await neuron.end_of("b"), Finished)

    play(scene)


def test_tokens_and_pings_are_answered_while_all_slots_are_taken() -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("a", "chat", b"hold"), Tokenize("t", b"{}"), Ping("p"))

        assert isinstance(await neuron.end_of("t"), Finished)
        assert Chunk("t", b'{"tokens":[],"count":0}') in neuron.heard
        assert await neuron.hears(lambda message: message.id == "p") == Pong("p")

    play(scene)


def test_an_abort_waits_for_the_message_that_is_being_written() -> None:
    """Half a message would garble all that follow."""

    class Wordy(Scripted):
        async def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
            if request.body == b"":
                yield Finished(request.id, "stop", Usage(), Timings())
                return
            while True:
                yield Chunk(request.id, b"x" * (1 << 20))
                await checkpoint()

    async def run() -> None:
        ours, theirs = socket.socketpair()
        async with (
            await UNIXSocketStream.from_socket(ours) as near,
            await UNIXSocketStream.from_socket(theirs) as far,
            anyio.create_task_group() as tasks,
        ):
            neuron = Neuron(near, Wordy())
            tasks.start_soon(Host(neuron.engine, far).run)
            await neuron.loads()
            await neuron.says(Generate("a", "chat", b"more"))
            await anyio.wait_all_tasks_blocked()  # nobody reads: a chunk is half written
            await neuron.says(Abort("a"), Generate("b", "chat", b""))
            await anyio.wait_all_tasks_blocked()

            aborted(await neuron.end_of("a"))
            assert isinstance(await neuron.end_of("b"), Finished)
            tasks.cancel_scope.cancel()

    anyio.run(run)


def test_the_end_of_its_neuron_is_the_end_of_it() -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("a", "chat", b"hold"))
        await neuron.hears(lambda message: message == Chunk("a", b"1"))
        await neuron.hangs_up()

    play(scene, leaves=True)


def test_told_to_leave_it_ends_what_runs_closes_the_engine_and_goes() -> None:
    async def scene(neuron: Neuron) -> None:
        await neuron.loads()
        await neuron.says(Generate("a", "chat", b"hold"), Shutdown(""))

    assert play(scene, leaves=True).closed


class Entry:
    def __init__(self, name: str, made: Any) -> None:
        self.name, self._made = name, made

    def load(self) -> Any:
        if isinstance(self._made, Exception):
            raise self._made
        return self._made


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [Entry("scripted", Scripted), Entry("broken", ImportError("no libcuda.so.1"))]
    monkeypatch.setattr(subject, "entry_points", lambda group: entries)


@pytest.mark.usefixtures("installed")
def test_an_engine_is_found_by_its_name() -> None:
    engine: Engine = load_engine("scripted")

    assert engine.name == "scripted"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scriptd", r"no engine is called 'scriptd'; installed: broken, scripted"),
        ("broken", r"'broken' cannot be imported \(no libcuda.so.1\): pip install 'cortex-fleet\[broken\]'"),
    ],
)
def test_an_engine_that_is_not_there_is_missed_with_a_remedy(name: str, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        load_engine(name)
