"""The life of a replica: what happens to it, and the state it is in after each thing that does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import cast

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from structlog.testing import capture_logs

from cortex.core.errors import (
    CortexError,
    EngineFailed,
    InsufficientMemory,
    LoadFailed,
    ModelNotReady,
    Overloaded,
    ShuttingDown,
)
from cortex.core.model_spec import ModelSpec
from cortex.neuron import replica as subject
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.replica import Replica, Running, Serve
from cortex.wire.engine_api import Chunk, Finished, Progress, ReplicaInfo, Timings, Usage
from cortex.wire.node_api import LoadProgress

SLOTS, QUEUE = 2, 1
INFO = ReplicaInfo(engine="fake", engine_version="1", context_tokens=100, slots=SLOTS, capabilities=("chat",))


class FakeProcess:
    """An engine process that dies when it is told to; its answers wait for `answer`."""

    pid = 4711

    def __init__(self) -> None:
        self.died, self.answer = anyio.Event(), anyio.Event()
        self.reason: str | None = None
        self.stopped = self.killed = False

    def die(self, reason: str) -> None:
        self.reason = reason
        self.died.set()
        self.answer.set()

    def kill(self) -> None:
        self.killed = True
        self.die("killed")

    async def generate(
        self, kind: str, body: bytes, choices: int, request_id: str
    ) -> AsyncGenerator[Progress | Chunk | Finished, None]:
        yield Progress("1", "prefill", 1, 1)
        await self.answer.wait()
        if self.died.is_set():
            raise EngineFailed(self.reason or "")
        yield Finished("1", "stop", Usage(), Timings())


class Stage:
    """A replica, the engine it is played, and the requests that come to it."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.now = 0.0
        self.replica = Replica(ModelSpec(id="demo"), "auto", QUEUE, clock=lambda: self.now)
        self.processes: list[FakeProcess] = []
        self.answers: list[str] = []
        self.stopped = anyio.Event()
        self._load = anyio.Event()
        self._outcome: CortexError | None = None
        self._tasks = tasks
        tasks.start_soon(self._run)

    async def _run(self) -> None:
        await self.replica.run(self._bring_up)

    async def _bring_up(self, replica: Replica, serve: Serve) -> None:
        self._load = anyio.Event()
        await self._load.wait()
        if self._outcome is not None:
            raise self._outcome
        process = FakeProcess()
        self.processes.append(process)
        replica.process = cast(EngineProcess, process)
        try:
            await serve(Running(replica.process, INFO, [0]))
            process.stopped = True
        finally:
            replica.process = None

    async def load_ends(self, error: CortexError | None = None) -> None:
        self.now += 3.0
        self._outcome = error
        self._load.set()

    async def load_fails(self) -> None:
        await self.load_ends(InsufficientMemory("no room"))

    async def load_crashes(self) -> None:
        await self.load_ends(EngineFailed("died of it"))

    async def crashes(self) -> None:
        self.processes[-1].die("boom")

    async def time_passes(self) -> None:
        self.now += subject.CRASH_WINDOW_SECONDS

    async def is_stopped(self, drain_seconds: float | None = None) -> None:
        self._tasks.start_soon(self._stop, drain_seconds)

    async def _stop(self, drain_seconds: float | None) -> None:
        await (self.replica.stop() if drain_seconds is None else self.replica.stop(drain_seconds))
        self.stopped.set()

    async def request_comes(self) -> None:
        self._tasks.start_soon(self._ask)

    async def _ask(self) -> None:
        try:
            async with aclosing(self.replica.generate("chat", b"", 1)) as events:
                kinds = [type(event).__name__ async for event in events]
        except CortexError as error:
            self.answers.append(type(error).__name__)
        else:
            self.answers.append(" ".join(kinds))

    async def requests_end(self) -> None:
        self.processes[-1].answer.set()
        self.processes[-1].answer = anyio.Event()


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "BACKOFF_SECONDS", 0.0)


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(30):
        await checkpoint()


def play(scene: Callable[[Stage], Awaitable[None]]) -> Stage:
    """Run *scene* with a replica that has begun to load."""

    async def run() -> Stage:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                stage = Stage(tasks)
                await settle()
                await scene(stage)
                tasks.cancel_scope.cancel()
        return stage

    return anyio.run(run)


def tell(*happenings: str) -> tuple[list[str], Stage]:
    """Return the states that the replica was in before and after each of *happenings*."""
    states: list[str] = []

    async def scene(stage: Stage) -> None:
        states.append(stage.replica.state)
        for happening in happenings:
            await getattr(stage, happening)()
            await settle()
            states.append(stage.replica.state)

    return states, play(scene)


LOADED = ["load_ends"]
CRASH = ["crashes", "load_ends"]
STORIES: dict[str, tuple[list[str], list[str]]] = {
    "loaded and unloaded": ([*LOADED, "is_stopped"], ["loading", "ready", "unloaded"]),
    "a load that is refused": (["load_fails"], ["loading", "failed"]),
    "a first load that kills the engine": (["load_crashes"], ["loading", "failed"]),
    "unloaded while it loads": (["is_stopped"], ["loading", "unloaded"]),
    "drained": (
        [*LOADED, "request_comes", "request_comes", "is_stopped", "requests_end"],
        ["loading", "ready", "ready", "ready", "draining", "unloaded"],
    ),
    "a crash": ([*LOADED, *CRASH], ["loading", "ready", "loading", "ready"]),
    "a crash while draining": (
        [*LOADED, "request_comes", "is_stopped", "crashes"],
        ["loading", "ready", "ready", "draining", "unloaded"],
    ),
    "a restart that is refused": ([*LOADED, "crashes", "load_fails"], ["loading", "ready", "loading", "failed"]),
    "a restart that crashes": (
        [*LOADED, "crashes", "load_crashes", "load_ends"],
        ["loading", "ready", "loading", "loading", "ready"],
    ),
    "unloaded while it restarts": ([*LOADED, "crashes", "is_stopped"], ["loading", "ready", "loading", "unloaded"]),
    "unloaded after it failed": (["load_fails", "is_stopped"], ["loading", "failed", "failed"]),
    "five crashes": ([*LOADED, *CRASH * 5], ["loading", "ready", *["loading", "ready"] * 5]),
    "six crashes": ([*LOADED, *CRASH * 5, "crashes"], ["loading", "ready", *["loading", "ready"] * 5, "failed"]),
    "a sixth crash much later": (
        [*LOADED, *CRASH * 5, "time_passes", *CRASH],
        ["loading", "ready", *["loading", "ready"] * 5, "ready", "loading", "ready"],
    ),
}


@pytest.mark.parametrize(("happenings", "states"), STORIES.values(), ids=STORIES.keys())
def test_a_replica_goes_from_state_to_state(happenings: list[str], states: list[str]) -> None:
    seen, stage = tell(*happenings)

    assert seen == states
    if states[-1] in ("failed", "unloaded"):
        assert stage.replica.running is None
        assert stage.replica.process is None
    if happenings[-1] == "is_stopped":
        assert stage.stopped.is_set()


def test_a_loaded_replica_knows_what_it_became() -> None:
    async def scene(stage: Stage) -> None:
        await stage.load_ends()
        await stage.replica.settled()
        listed = stage.replica.describe(5 << 20)

        assert (listed.status, listed.pid, listed.slots, listed.devices) == ("ready", 4711, SLOTS, [0])
        assert (listed.load_seconds, listed.vram_used_mb, listed.error) == (3.0, 5, None)

    play(scene)


def test_a_replica_tells_for_how_long_nobody_has_asked_it() -> None:
    async def scene(stage: Stage) -> None:
        def told() -> tuple[float | None, float | None, int]:
            listed = stage.replica.describe(None)
            return listed.idle_seconds, listed.loaded_seconds_ago, listed.requests

        loading = told()
        await stage.load_ends()
        await stage.replica.settled()
        stage.now += 5
        waiting = told()
        await stage.request_comes()
        await settle()
        stage.now += 2
        busy = told()
        await stage.requests_end()
        await settle()
        stage.now += 1

        assert (loading, waiting, busy) == ((None, None, 0), (5, 5, 0), (None, 7, 0))
        assert told() == (1, 8, 1)

    play(scene)


def test_a_replica_that_is_restarted_is_as_new() -> None:
    async def scene(stage: Stage) -> None:
        await stage.load_ends()
        await stage.replica.settled()
        stage.now += 5
        await stage.crashes()
        await settle()
        assert stage.replica.describe(None).loaded_seconds_ago is None
        await stage.load_ends()
        await stage.replica.settled()
        stage.now += 1

        listed = stage.replica.describe(None)
        assert (listed.idle_seconds, listed.loaded_seconds_ago) == (1, 1)

    play(scene)


def test_a_failed_replica_keeps_its_reason() -> None:
    _, stage = tell("load_fails")

    assert stage.replica.describe(None).error == "no room"
    assert isinstance(stage.replica.error, InsufficientMemory)


def test_a_replica_that_keeps_crashing_is_given_up_with_the_count_and_the_cause() -> None:
    _, stage = tell(*LOADED, *CRASH * 5, "crashes")

    assert isinstance(stage.replica.error, LoadFailed)
    assert str(stage.replica.error) == "crashed 6 times within 600 s: boom"
    assert stage.replica.restarts == 5


def test_each_crash_in_a_row_waits_longer_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(subject, "MAX_BACKOFF_SECONDS", 0.004)

    async def scene(stage: Stage) -> None:
        for _ in range(5):
            await stage.load_ends()
            await stage.replica.settled()
            await stage.crashes()
            await loads_again(stage)

    with capture_logs() as logs:
        play(scene)
    delays = [line["restart_in_seconds"] for line in logs if line["event"] == "replica_crashed"]
    assert delays == [0.001, 0.002, 0.004, 0.004, 0.004]


async def loads_again(stage: Stage) -> None:
    begun = stage._load
    while stage._load is begun:
        await checkpoint()


def test_whoever_waits_for_a_load_waits_for_its_restart_too() -> None:
    """From the crash on: a moment at which the replica looked settled would be told as loaded."""

    async def scene(stage: Stage) -> None:
        await stage.load_ends()
        await stage.replica.settled()
        waited = anyio.Event()

        async def wait() -> None:
            await stage.replica.settled()
            assert stage.replica.state == "ready"
            waited.set()

        await stage.crashes()
        while stage.replica.running is not None:
            await checkpoint()
        assert stage.replica.state == "loading"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await settle()
            assert not waited.is_set()
            await stage.load_ends()

    play(scene)


@pytest.mark.parametrize(
    ("happening", "raised"),
    [("load_fails", InsufficientMemory), ("load_crashes", EngineFailed), ("is_stopped", ShuttingDown)],
)
def test_whoever_waits_for_a_load_hears_what_became_of_it(happening: str, raised: type[CortexError]) -> None:
    async def scene(stage: Stage) -> None:
        await getattr(stage, happening)()
        with pytest.raises(raised):
            await stage.replica.settled()

    play(scene)


def test_a_load_that_is_being_given_up_is_draining() -> None:
    async def scene(stage: Stage) -> None:
        await stage.is_stopped()
        await checkpoint()

        assert stage.replica.state == "draining"

    play(scene)


def test_a_drain_lets_answers_end_and_the_engine_leave_by_itself() -> None:
    _, stage = tell(*LOADED, "request_comes", "is_stopped", "requests_end")

    assert stage.answers == ["Progress Finished"]
    assert (stage.processes[0].stopped, stage.processes[0].killed) == (True, False)


def test_a_drain_that_takes_too_long_is_cut_short() -> None:
    async def scene(stage: Stage) -> None:
        await stage.load_ends()
        await stage.replica.settled()
        await stage.request_comes()
        await settle()
        with capture_logs() as logs:
            await stage.replica.stop(0.01)
        await settle()

        assert stage.processes[0].killed
        assert stage.replica.state == "unloaded"
        assert stage.answers == ["EngineFailed"]
        assert logs == [{"event": "drain_cut_short", "model": "demo", "in_flight": 1, **logs[0]}]

    play(scene)


def test_a_drain_that_is_cut_short_waits_for_no_reader() -> None:
    """Whoever has stopped taking an answer, its request is still in flight when the engine is gone."""

    async def scene(stage: Stage) -> None:
        await stage.load_ends()
        await stage.replica.settled()
        async with aclosing(stage.replica.generate("chat", b"", 1)) as events:
            await anext(events)
            await stage.replica.stop(0.01)

            assert stage.replica.state == "unloaded"

    play(scene)


def test_two_may_ask_for_the_same_stop() -> None:
    async def scene(stage: Stage) -> None:
        await stage.load_ends()
        await stage.replica.settled()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.replica.stop)
            tasks.start_soon(stage.replica.stop)

        assert stage.replica.state == "unloaded"

    play(scene)


REFUSALS: dict[str, tuple[list[str], type[CortexError], str, int | None]] = {
    "loading": ([], ModelNotReady, "demo is loading", 2),
    "restarting": ([*LOADED, "crashes"], ModelNotReady, "demo is restarting", 2),
    "draining": ([*LOADED, "request_comes", "is_stopped"], ShuttingDown, "demo is being unloaded", 2),
    "failed": (["load_fails"], LoadFailed, "demo is not loaded: no room", None),
    "full": ([*LOADED, *["request_comes"] * (SLOTS + QUEUE)], Overloaded, "serves 2 at once and 1 wait", 2),
}


@pytest.mark.parametrize(("happenings", "raised", "said", "retry"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_request_that_cannot_be_served_now_is_refused_at_the_door(
    happenings: list[str], raised: type[CortexError], said: str, retry: int | None
) -> None:
    caught: list[CortexError] = []

    async def scene(stage: Stage) -> None:
        for happening in happenings:
            await getattr(stage, happening)()
            await settle()
        with pytest.raises(raised, match=said) as refusal:
            stage.replica.admit()
        caught.append(refusal.value)

    play(scene)
    assert caught[0].retry_after_seconds == retry
    assert caught[0].status == (429 if raised is Overloaded else 503)


def test_requests_in_the_queue_are_told_from_those_in_a_slot() -> None:
    async def scene(stage: Stage) -> None:
        await stage.load_ends()
        await stage.replica.settled()
        for _ in range(SLOTS + QUEUE + 1):
            await stage.request_comes()
        await settle()
        listed = stage.replica.describe(None)

        assert (listed.in_flight, listed.queued) == (SLOTS, QUEUE)
        assert stage.answers == ["Overloaded"]
        await stage.requests_end()
        await settle()
        assert stage.replica.in_flight == 0
        stage.replica.admit()

    play(scene)


def test_a_crash_fails_its_requests_and_the_next_ones_are_told_to_wait() -> None:
    _, stage = tell(*LOADED, "request_comes", "request_comes", "crashes", "request_comes")

    assert stage.answers == ["EngineFailed", "EngineFailed", "ModelNotReady"]
    assert stage.replica.in_flight == 0


def test_a_restarting_replica_says_so_and_why() -> None:
    async def scene(stage: Stage) -> None:
        await stage.load_ends()
        await stage.replica.settled()
        await stage.crashes()
        await settle()
        listed = stage.replica.describe(None)

        assert (listed.status, listed.restarts, listed.error) == ("loading", 1, "boom")
        assert listed.progress == LoadProgress("restarting")

    play(scene)


def test_a_mistake_of_ours_costs_one_replica_and_not_the_node() -> None:
    async def scene() -> None:
        async def broken(_: Replica, __: Serve) -> None:
            raise RuntimeError("a bug")

        replica = Replica(ModelSpec(id="m"), "auto", 1)
        with anyio.fail_after(5):
            await replica.run(broken)

        assert replica.state == "failed"
        with pytest.raises(EngineFailed, match="a bug"):
            await replica.settled()

    anyio.run(scene)
