"""One engine process and what can happen to it: the simulated engine in a real child, or one that misbehaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio.lowlevel import checkpoint
from structlog.testing import capture_logs

from cortex.core import logging as core_logging
from cortex.core.errors import EngineFailed, LoadFailed
from cortex.core.logging import LevelFilter
from cortex.neuron import engine_channel
from cortex.neuron import engine_process as subject
from cortex.neuron.engine_process import EngineProcess
from cortex.wire.engine_api import Chunk, Device, EngineSpec, Finished, Progress, ReplicaInfo
from cortex.wire.errors import RemoteError
from harness import alive, until

BOUND_SECONDS = 15
LINGER_SECONDS = 0.4
CPU = Device(0, "cpu", "cpu", 8 << 30)

Event = Progress | Chunk | Finished

# Engines that misbehave, found by the child through PYTHONPATH as an installed package would be.
ODD_ENGINES = '''
import asyncio, os, subprocess, sys, time
from cortex.engines.base import LoadError
from cortex.engines.simulated import Simulated
from cortex.wire.engine_api import Progress

class Talker(Simulated):
    """Says something, and dies of its load in the middle of a line."""
    async def load(self, spec, on_progress):
        print("on stdout")
        print("on stderr: \\xe4", file=sys.stderr)
        sys.stdout.write("cut in the mid")
        sys.stdout.flush()
        os._exit(7)

class Parent(Simulated):
    """Has a process of its own."""
    async def load(self, spec, on_progress):
        child = subprocess.Popen(["sleep", "1000"])
        on_progress("child", child.pid, 0)
        return await super().load(spec, on_progress)

class Stuck(Simulated):
    """Holds its event loop while it loads."""
    async def load(self, spec, on_progress):
        time.sleep(1000)

class Lingering(Simulated):
    """Takes its time to let go of a request."""
    async def generate(self, request):
        try:
            async for event in super().generate(request):
                yield event
        finally:
            await asyncio.sleep(LINGER_SECONDS)

class Flooding(Simulated):
    """Does not wait for anybody."""
    async def generate(self, request):
        for number in range(1000):
            yield Progress(request.id, "flood", number, 1000)
        async for event in super().generate(request):
            yield event
'''
ODD_NAMES = ["Talker", "Parent", "Stuck", "Lingering", "Flooding", "Missing"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment in which engines called like the classes above are installed."""
    directory = tmp_path_factory.mktemp("odd")
    (directory / "odd.py").write_text(ODD_ENGINES.replace("LINGER_SECONDS", str(LINGER_SECONDS)))
    info = directory / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    entries = [f"{name.lower()} = {'absent' if name == 'Missing' else 'odd'}:{name}" for name in ODD_NAMES]
    (info / "entry_points.txt").write_text("[cortex.engines]\n" + "\n".join(entries) + "\n")
    return {"PYTHONPATH": str(directory)}


def play(scene: Callable[[], Awaitable[None]], *, uvloop: bool = False) -> None:
    """Run *scene*, which must end within a bound."""

    async def bounded() -> None:
        with anyio.fail_after(BOUND_SECONDS):
            await scene()

    anyio.run(bounded, backend_options={"use_uvloop": uvloop})


@asynccontextmanager
async def child(
    engine: str = "simulated", env: dict[str, str] | None = None, *, heartbeat_seconds: float = 10.0
) -> AsyncIterator[EngineProcess]:
    """A running process that has loaded nothing; gone when the block is left."""
    process = EngineProcess(engine, "demo", env=env or {}, heartbeat_seconds=heartbeat_seconds)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(process.run)
        yield process
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def loaded(*, heartbeat_seconds: float = 10.0, **options: Any) -> AsyncIterator[EngineProcess]:
    """A running process that serves, fast unless *options* say otherwise."""
    async with child(heartbeat_seconds=heartbeat_seconds) as process:
        await load(process, load_seconds=0, **{"tokens_per_second": 2000, **options})
        yield process


async def load(
    process: EngineProcess,
    engine: str = "simulated",
    *,
    seconds: float = BOUND_SECONDS,
    heard: list[Progress] | None = None,
    **options: Any,
) -> ReplicaInfo:
    """Load the simulated model; what it tells of its progress is left in *heard*."""
    spec = EngineSpec(model="demo", engine=engine, path="", devices=(CPU,), options=options)
    return await process.load(spec, (lambda _: None) if heard is None else heard.append, seconds)


def chat(process: EngineProcess, text: str, choices: int = 1) -> AsyncGenerator[Event, None]:
    body = {"messages": [{"role": "user", "content": text}], "n": choices}
    return process.generate("chat", json.dumps(body).encode(), choices)


def delta(event: Event) -> str:
    if not isinstance(event, Chunk):
        return ""
    return "".join(choice["delta"].get("content") or "" for choice in json.loads(event.data)["choices"])


async def say(process: EngineProcess, text: str) -> str:
    """Return what the engine answers to an order to say *text*."""
    return "".join([delta(event) async for event in chat(process, f"#echo {text}")])


async def first_chunk(events: AsyncGenerator[Event, None]) -> None:
    async for event in events:
        if isinstance(event, Chunk):
            return


def hosts() -> list[psutil.Process]:
    return psutil.Process().children()


def test_a_load_tells_its_progress_and_what_it_became() -> None:
    heard: list[Progress] = []

    async def scene() -> None:
        async with child() as process:
            info = await load(process, load_seconds=0.2, slots=3, memory_mb=64, heard=heard)

            assert (info.engine, info.slots, info.memory_bytes) == ("simulated", 3, 64 << 20)
            assert process.engine_version == info.engine_version

    play(scene)
    percents = [progress.done for progress in heard]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert percents[-1] > 50


def test_an_answer_is_progress_then_chunks_then_one_end() -> None:
    async def scene() -> None:
        async with loaded() as process:
            events = [event async for event in chat(process, "#tokens 5")]

            kinds = [type(event) for event in events]
            assert kinds == sorted(kinds, key=[Progress, Chunk, Finished].index)
            assert kinds.count(Finished) == 1
            assert isinstance(events[-1], Finished)
            assert events[-1].usage.completion_tokens == 5

    play(scene)


def test_answers_that_cross_are_told_apart_by_their_ids() -> None:
    order: list[str] = []
    said: dict[str, str] = {}

    async def listen(process: EngineProcess, name: str) -> None:
        async for event in chat(process, f"#echo {name} " * 20):
            order.append(name)
            said[name] = said.get(name, "") + delta(event)

    async def scene() -> None:
        async with loaded(slots=4, tokens_per_second=200) as process, anyio.create_task_group() as tasks:
            for name in "abcdef":
                tasks.start_soon(listen, process, name)

    play(scene)
    assert said == {name: (f"{name} " + f"#echo {name} " * 19) for name in "abcdef"}
    turns = sum(one != other for one, other in pairwise(order))
    assert turns > 20


def test_a_request_that_is_at_fault_is_refused_with_the_engines_own_words() -> None:
    async def scene() -> None:
        async with loaded(slots=2) as process:
            with pytest.raises(RemoteError, match="2 slots") as caught:
                await first_chunk(chat(process, "hello", choices=3))

            assert (caught.value.status, caught.value.param) == (400, "n")
            assert caught.value.type == "invalid_request_error"
            assert await say(process, "still here") == "still here"

    play(scene)


def test_tokens_are_counted_beside_an_answer() -> None:
    async def scene() -> None:
        async with loaded(slots=1, tokens_per_second=10) as process, aclosing(chat(process, "#tokens 500")) as events:
            await first_chunk(events)
            counted = json.loads(await process.tokenize(b'{"content":"one two"}'))
            with pytest.raises(RemoteError, match="content"):
                await process.tokenize(b"{}")

        assert counted["count"] == len(counted["tokens"]) == 2

    play(scene)


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_leaving_an_answer_early_frees_its_slot(how: str) -> None:
    """The answer would take minutes; the next one gets the only slot at once."""

    async def scene() -> None:
        async with loaded(slots=1, tokens_per_second=50) as process:
            if how == "close":
                async with aclosing(chat(process, "#tokens 20000")) as events:
                    await first_chunk(events)
            else:
                await cancelled_in_mid_answer(process)

            assert await say(process, "free") == "free"
            assert process._channel.waiting == 0

    play(scene)


async def cancelled_in_mid_answer(process: EngineProcess) -> None:
    begun = anyio.Event()

    async def listen() -> None:
        async for event in chat(process, "#tokens 20000"):
            if isinstance(event, Chunk):
                begun.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await begun.wait()
        tasks.cancel_scope.cancel()


def test_a_request_that_is_given_up_while_it_is_being_sent_garbles_nothing() -> None:
    """The child stands still, so the large request is cut off in the middle of its way there."""

    async def scene() -> None:
        async with loaded() as process:
            os.kill(process.pid, signal.SIGSTOP)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(say, process, "x" * (4 << 20))
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
                os.kill(process.pid, signal.SIGCONT)

            assert await say(process, "clear") == "clear"
            assert not process.died.is_set()

    play(scene)


def test_a_reader_that_never_reads_costs_its_own_answer_only(odd: dict[str, str], monkeypatch: Any) -> None:
    monkeypatch.setattr(engine_channel, "MAX_INBOX", 100)

    async def scene() -> None:
        async with child("flooding", odd) as process:
            await load(process, "flooding", load_seconds=0)
            slow = chat(process, "hello")
            with capture_logs() as logs:
                await anext(slow)
                while not logs:
                    await checkpoint()
            with pytest.raises(EngineFailed, match="too slowly"):
                await first_chunk(slow)

            assert logs[0]["event"] == "reader_too_slow"
            assert not process.died.is_set()
            assert json.loads(await process.tokenize(b'{"content":"x"}'))["count"] == 1

    play(scene)


def test_a_killed_child_fails_all_its_requests_at_once() -> None:
    reasons: list[str] = []

    async def listen(process: EngineProcess, begun: anyio.Event) -> None:
        try:
            async for event in chat(process, "#tokens 20000"):
                if isinstance(event, Chunk):
                    begun.set()
        except EngineFailed as error:
            reasons.append(error.message)

    async def scene() -> None:
        async with loaded(slots=2, tokens_per_second=50) as process, anyio.create_task_group() as tasks:
            begun = anyio.Event()
            for _ in range(3):  # the third waits for a slot
                tasks.start_soon(listen, process, begun)
            await begun.wait()
            os.kill(process.pid, signal.SIGKILL)
            await process.died.wait()
            with pytest.raises(EngineFailed, match="SIGKILL"):
                await say(process, "too late")
            with pytest.raises(EngineFailed, match="SIGKILL"):
                await process.tokenize(b"{}")

    play(scene)
    assert reasons == ["the engine process was ended by SIGKILL"] * 3


def test_an_end_tells_who_it_was_at_work_on_from_who_still_waited() -> None:
    """With one slot, one of the two was at work; the other may go elsewhere without a stain."""
    ends: list[tuple[bool, str | None]] = []

    async def listen(process: EngineProcess, begun: anyio.Event) -> None:
        try:
            async for event in chat(process, "#tokens 20000"):
                if isinstance(event, Chunk):
                    begun.set()
        except EngineFailed as error:
            ends.append((error.at_work, error.code))

    async def scene() -> None:
        async with loaded(slots=1, tokens_per_second=50) as process, anyio.create_task_group() as tasks:
            begun = anyio.Event()
            tasks.start_soon(listen, process, begun)
            tasks.start_soon(listen, process, begun)
            await begun.wait()
            os.kill(process.pid, signal.SIGKILL)

    play(scene)
    assert sorted(ends) == [(False, "model_not_ready"), (True, "engine_failed")]


def test_leaving_an_answer_returns_when_its_slot_is_free(odd: dict[str, str]) -> None:
    """The engine takes its time to let go; the next request finds a free slot all the same."""

    async def scene() -> None:
        async with child("lingering", odd) as process:
            await load(process, "lingering", load_seconds=0, slots=1)
            async with aclosing(chat(process, "#tokens 20000")) as events:
                await first_chunk(events)
            *_, end = [event async for event in chat(process, "#tokens 1")]

            assert isinstance(end, Finished)
            assert end.timings.queue_ms < 1000 * LINGER_SECONDS / 2

    play(scene)


def test_a_slot_that_is_not_told_free_is_not_waited_for_forever(monkeypatch: Any) -> None:
    monkeypatch.setattr(engine_channel, "ABORT_SECONDS", 0.1)

    async def scene() -> None:
        async with loaded() as process:
            events = chat(process, "#tokens 20000")
            await first_chunk(events)
            os.kill(process.pid, signal.SIGSTOP)
            with capture_logs() as logs:
                await events.aclose()

            assert [line["event"] for line in logs] == ["abort_unconfirmed"]

    play(scene)


def test_a_child_that_takes_nothing_from_its_socket_is_ended(monkeypatch: Any) -> None:
    monkeypatch.setattr(engine_channel, "SEND_SECONDS", 0.1)

    async def scene() -> None:
        async with loaded() as process:
            os.kill(process.pid, signal.SIGSTOP)
            with pytest.raises(EngineFailed):
                await say(process, "x" * (4 << 20))
            await process.died.wait()

            assert process.reason == "the engine process took nothing from its socket for 0 s"

    play(scene)


def test_a_killed_child_that_does_not_end_is_given_up_in_time(monkeypatch: Any) -> None:
    """As one that hangs in a driver; here the news of its end never comes."""
    monkeypatch.setattr(subject, "EXIT_SECONDS", 0.05)
    monkeypatch.setattr(subject, "REAP_SECONDS", 0.05)

    async def scene() -> None:
        async with loaded() as process:
            process._process = Undying(process._process)
            process.kill()
            with capture_logs() as logs:
                await process.died.wait()

            assert process.reason == "the engine process was killed and does not end"
            assert [line["event"] for line in logs] == ["engine_stuck"]
            await process._process.inner.wait()
            await process._process.inner.aclose()

    play(scene)


class Undying:
    """A process of whose end nobody hears."""

    returncode = None

    def __init__(self, inner: Any) -> None:
        self.inner, self.pid, self.stdout = inner, inner.pid, inner.stdout

    async def wait(self) -> None:
        await anyio.sleep_forever()


@pytest.mark.parametrize(
    ("fault", "ended"), [("exit", "exited with status 70"), ("abort", "by SIGABRT"), ("kill", "by SIGKILL")]
)
@pytest.mark.parametrize("stage", ["load", "prefill", "decode"])
def test_an_engine_that_dies_says_how_and_its_last_words(fault: str, ended: str, stage: str) -> None:
    async def scene() -> None:
        async with child() as process:
            with pytest.raises(EngineFailed, match=ended) as caught:  # noqa: PT012 - the stage decides which of the two
                await load(process, load_seconds=0, fault=fault, fault_at=stage, fault_after_tokens=2)
                await say(process, "one two three")

            assert caught.value.message.endswith(f"last words: simulated fault, as ordered: {fault} in {stage}")
            assert not alive(process.pid)

    play(scene)


def test_an_engine_without_memory_for_a_request_says_so_and_lives() -> None:
    async def scene() -> None:
        async with loaded(fault="memory", fault_at="prefill", fault_on="large") as process:
            with pytest.raises(RemoteError, match="out of memory") as caught:
                await say(process, "a large thing")

            assert (caught.value.status, caught.value.code) == (503, "out_of_memory")
            assert await say(process, "a small thing") == "a small thing"

    play(scene)


def test_a_load_without_memory_for_it_says_so() -> None:
    async def scene() -> None:
        async with child() as process:
            with pytest.raises(LoadFailed, match="out of memory"):
                await load(process, fault="memory", fault_at="load")

            assert not process.died.is_set()

    play(scene)


def test_an_answer_that_stalls_can_be_left_while_others_go_on() -> None:
    async def scene() -> None:
        async with loaded(slots=2, fault="stall", fault_after_tokens=2, fault_on="tired") as process:
            events = chat(process, "#echo a tired old song")
            await first_chunk(events)
            assert await say(process, "a lively one") == "a lively one"
            with anyio.move_on_after(0.05) as bound:
                await first_chunk(events)
                await first_chunk(events)
                await first_chunk(events)
            await events.aclose()

            assert bound.cancelled_caught
            assert process._channel.waiting == 0

    play(scene)


def test_a_child_that_dies_in_mid_answer_leaves_its_status() -> None:
    async def scene() -> None:
        async with loaded(crash_after_tokens=3) as process:
            with pytest.raises(EngineFailed, match="exited with status 70"):
                await say(process, "one two three four five six")

    play(scene)


def test_what_a_child_prints_is_logged_and_its_last_words_are_told(odd: dict[str, str], monkeypatch: Any) -> None:
    """A line that was never ended counts: it is the one that says why."""
    monkeypatch.setattr(core_logging._state, "filter", LevelFilter("debug"))

    async def scene() -> None:
        async with child("talker", odd) as process:
            with pytest.raises(EngineFailed, match="exited with status 7; last words: ") as caught:
                await load(process, "talker")

            assert {"on stdout", "on stderr: ä", "cut in the mid"} == set(process.last_words)
            assert all(line in caught.value.message for line in process.last_words)

    with capture_logs() as logs:
        play(scene)
    printed = [line for line in logs if line["event"] == "engine_output"]
    assert {line["line"] for line in printed} == {"on stdout", "on stderr: ä", "cut in the mid"}
    assert {line["model"] for line in printed} == {"demo"}


def test_an_engine_that_is_not_installed_fails_the_load_with_a_remedy(odd: dict[str, str]) -> None:
    async def scene() -> None:
        async with child("nonesuch") as process:
            with pytest.raises(LoadFailed, match=r"no engine is called 'nonesuch'; installed: .*simulated"):
                await load(process)
        async with child("missing", odd) as process:
            with pytest.raises(LoadFailed, match=r"No module named 'absent'\): pip install 'cortex-fleet\[missing\]'"):
                await load(process)

    play(scene)


def test_a_load_that_is_refused_leaves_the_child_alive() -> None:
    async def scene() -> None:
        async with child() as process:
            with pytest.raises(LoadFailed, match=r"options\.slts is not an option"):
                await load(process, slts=3)
            with pytest.raises(LoadFailed, match="64 bits"):
                await load(process, slots=10**30)

            assert (await load(process, load_seconds=0)).slots == 8

    play(scene)


def test_a_load_has_a_time_limit() -> None:
    async def scene() -> None:
        async with child() as process:
            with pytest.raises(EngineFailed, match="in time"):
                await load(process, load_seconds=1000, seconds=0.1)

    play(scene)


def test_a_child_that_stands_still_is_noticed_and_killed(monkeypatch: Any) -> None:
    monkeypatch.setattr(subject, "PING_SECONDS", 0.05)

    async def scene() -> None:
        async with loaded(heartbeat_seconds=0.3) as process:
            os.kill(process.pid, signal.SIGSTOP)
            with pytest.raises(EngineFailed, match="did not answer for"):
                await say(process, "anybody there?")

            assert process.died.is_set()
            assert not alive(process.pid)

    with capture_logs() as logs:
        play(scene)
    assert [line["event"] for line in logs] == ["engine_hung"]


def test_a_neuron_that_stood_still_does_not_take_its_children_for_dead(monkeypatch: Any) -> None:
    """As after SIGSTOP or a suspended machine: the silence was its own."""
    monkeypatch.setattr(subject, "PING_SECONDS", 0.02)

    async def scene() -> None:
        async with loaded(heartbeat_seconds=0.2) as process:
            for _ in range(3):
                stand_still(0.4)
                assert await say(process, "here") == "here"

    play(scene)


def stand_still(seconds: float) -> None:
    time.sleep(seconds)


def test_an_idle_child_lives_on_its_heartbeats(monkeypatch: Any) -> None:
    monkeypatch.setattr(subject, "PING_SECONDS", 0.01)

    async def scene() -> None:
        async with loaded(heartbeat_seconds=0.3) as process:
            with anyio.move_on_after(0.6):
                await process.died.wait()

            assert not process.died.is_set()

    play(scene)


def test_a_load_may_hold_the_childs_loop_and_can_be_given_up(odd: dict[str, str], monkeypatch: Any) -> None:
    """Enough pings to fill the socket go unanswered, and nobody waits for the rest to fit."""
    monkeypatch.setattr(subject, "PING_SECONDS", 0.0001)
    monkeypatch.setattr(subject, "EXIT_SECONDS", 0.1)

    async def scene() -> None:
        async with child("stuck", odd, heartbeat_seconds=0.1) as process:
            with pytest.raises(EngineFailed, match="in time"):
                await load(process, "stuck", seconds=1)

            assert not process.died.is_set()
        assert not alive(process.pid)

    play(scene)


def test_a_child_that_stands_still_with_a_full_socket_can_be_left(monkeypatch: Any) -> None:
    monkeypatch.setattr(subject, "EXIT_SECONDS", 0.1)

    async def send_much(process: EngineProcess) -> None:
        with pytest.raises(EngineFailed):
            await say(process, "x" * (4 << 20))

    async def scene() -> None:
        async with anyio.create_task_group() as tasks:
            async with loaded() as process:
                os.kill(process.pid, signal.SIGSTOP)
                tasks.start_soon(send_much, process)
                await anyio.wait_all_tasks_blocked()
            assert not alive(process.pid)

    play(scene)


def test_a_polite_stop_lets_the_child_leave_by_itself() -> None:
    async def scene() -> None:
        async with loaded() as process:
            await process.stop()
            await process.died.wait()

            assert process.reason == "the engine process exited with status 0"

    play(scene)


@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("seconds", [0, 0.001, 0.003, 0.01, 0.05, 0.2])
def test_a_start_that_is_cancelled_at_any_moment_leaves_no_child(seconds: float, uvloop: bool) -> None:
    async def scene() -> None:
        async with child():
            with anyio.move_on_after(seconds):
                await anyio.sleep_forever()

    play(scene, uvloop=uvloop)
    assert hosts() == []


@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_starts_and_stops_leave_no_descriptor_behind(uvloop: bool) -> None:
    async def cycle() -> int:
        async with loaded() as process:
            await say(process, "hello")
        return int(psutil.Process().num_fds())

    async def scene() -> None:
        await cycle()
        first = await cycle()

        assert [await cycle() for _ in range(4)] == [first] * 4

    play(scene, uvloop=uvloop)


@pytest.mark.parametrize("how", ["left", "killed"])
def test_what_a_child_started_ends_with_it(odd: dict[str, str], how: str) -> None:
    heard: list[Progress] = []

    async def scene() -> None:
        async with child("parent", odd) as process:
            await load(process, "parent", load_seconds=0.1, heard=heard)
            if how == "killed":
                os.kill(process.pid, signal.SIGKILL)
                await process.died.wait()

    play(scene)
    until("the grandchild is gone", lambda: not alive(heard[0].done), 2)


NEURON = """
import anyio
from cortex.neuron.engine_process import EngineProcess

async def main():
    process = EngineProcess("simulated", "demo", env={}, heartbeat_seconds=10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(process.run)
        await process.ready.wait()
        print(process.pid, flush=True)

anyio.run(main)
"""


def test_a_child_ends_with_its_neuron_however_that_ends(tmp_path: Path) -> None:
    script = tmp_path / "neuron.py"
    script.write_text(NEURON)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        bound = threading.Timer(BOUND_SECONDS, parent.kill)  # whatever goes wrong below, it is waited for no longer
        bound.start()
        try:
            pid = int(parent.stdout.readline())
            assert alive(pid)
        finally:
            parent.kill()
            bound.cancel()

    until("the child is gone", partial(lambda pid: not alive(pid), pid), 5)


def test_a_child_that_cannot_be_started_says_so(monkeypatch: Any) -> None:
    monkeypatch.setattr(subject.sys, "executable", "/nonexistent/python")

    async def scene() -> None:
        async with child() as process:
            with pytest.raises(LoadFailed, match=r"could not be started: .*No such file"):
                await load(process)

            assert not process.started

    play(scene)


@pytest.mark.parametrize(
    ("code", "said"),
    [(0, "exited with status 0"), (3, "exited with status 3"), (-9, "ended by SIGKILL"), (-999, "ended by signal 999")],
)
def test_an_obituary_names_the_cause(code: int, said: str) -> None:
    assert said in subject._obituary(code)
