"""The table of a node's replicas, with real engine processes of the simulated engine on declared memory."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from structlog.testing import capture_logs

from cortex import __version__
from cortex.core.errors import (
    CortexError,
    EngineFailed,
    InsufficientMemory,
    LoadFailed,
    ModelNotFound,
    NoFeasibleNode,
    ShuttingDown,
)
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.neuron import loading, memory
from cortex.neuron.config import Limits, NeuronConfig, SimulatedDevice
from cortex.neuron.devices import all_probes
from cortex.neuron.discovery import discover
from cortex.neuron.loading import Loader
from cortex.neuron.measured import Measured
from cortex.neuron.memory import Memory
from cortex.neuron.models import Models, differences
from cortex.neuron.needs import footprint_of
from cortex.neuron.readings import Readings
from cortex.neuron.replica import Replica
from cortex.wire.engine_api import Chunk, Finished, Progress
from cortex.wire.node_api import DeviceInfo, Discovery, LoadProgress
from harness import alive

MIB = 1 << 20
TOTAL_MB = 4096


class Node:
    """The models of a node and what they need."""

    def __init__(self, models: Models, readings: Readings, devices: list[DeviceInfo]) -> None:
        self.models, self.readings, self.devices = models, readings, devices

    async def load(self, name: str, wish: int | list[int] | str = "auto", **options: Any) -> Replica:
        return await self.models.load(spec_of(name, **options), wish)  # type: ignore[arg-type]

    def free_mb(self, index: int = 0) -> int:
        return self.readings.devices()[index].memory_free_bytes // MIB


class GatedReadings(Readings):
    """Readings of which one refresh waits until it is let go."""

    def __init__(self, *args: Any, held: int) -> None:
        super().__init__(*args)
        self._held, self.refreshes = held, 0
        self.gate, self.waiting = anyio.Event(), anyio.Event()

    async def refresh(self) -> None:
        self.refreshes += 1
        if self.refreshes == self._held:
            self.waiting.set()
            await self.gate.wait()
        await super().refresh()


def spec_of(name: str, **options: Any) -> ModelSpec:
    return ModelSpec(id=name, engine="simulated", options={"load_seconds": 0, "memory_mb": 2500, **options})


@asynccontextmanager
async def node(*memory_mb: int, held: int = 0, limits: Limits | None = None) -> AsyncIterator[Node]:
    """A node with simulated devices; its replicas are gone when the block is left."""
    simulated = [SimulatedDevice(f"gpu{at}", mb) for at, mb in enumerate(memory_mb or (TOTAL_MB,))]
    config = NeuronConfig(simulated_devices=simulated, limits=limits or Limits(drain_seconds=5))
    probes = all_probes(simulated)
    discovery = discover(simulated, boot_id="b", engines=["simulated"], probes=lambda _: probes)
    discovery.engine_versions = {"simulated": __version__}
    readings = GatedReadings(discovery.devices, probes, held=held)
    async with anyio.create_task_group() as tasks:
        models = Models(config, discovery, readings, tasks)
        yield Node(models, readings, discovery.devices)
        await models.close()


def answer_of(replica: Replica) -> aclosing[AsyncGenerator[Progress | Chunk | Finished, None]]:
    """A request in progress; left with the block."""
    return aclosing(replica.generate("chat", b'{"messages":[{"role":"user","content":"x"}]}', 1))


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(15):
            await scene()

    anyio.run(bounded)


async def outcome(work: Awaitable[Any], into: list[Any]) -> None:
    """Keep what *work* returned or raised."""
    try:
        into.append(await work)
    except CortexError as error:
        into.append(error)


async def at_once(*works: Awaitable[Any]) -> list[Any]:
    outcomes: list[Any] = []
    async with anyio.create_task_group() as tasks:
        for work in works:
            tasks.start_soon(outcome, work, outcomes)
    return outcomes


def test_ten_who_ask_at_once_share_one_load() -> None:
    async def scene() -> None:
        async with node() as it:
            with capture_logs() as logs:
                replicas = await at_once(*(it.load("m", load_seconds=0.1) for _ in range(10)))
            again = await it.load("m")

            assert set(replicas) == {again}
            assert [line["event"] for line in logs].count("load_started") == 1
            assert [info.status for info in it.models.describe()] == ["ready"]

    play(scene)


def test_a_loaded_model_is_listed_with_its_declared_memory() -> None:
    async def scene() -> None:
        async with node() as it:
            await it.load("b", memory_mb=1000)
            await it.load("a", memory_mb=500)
            first, second = it.models.describe()

            assert (first.id, second.id) == ("a", "b")
            assert (first.memory_bytes, second.vram_used_mb) == (500 * MIB, 1000)
            assert (first.devices, first.simulated) == ([0], True)
            assert it.free_mb() == TOTAL_MB - 1500

    play(scene)


def test_of_two_that_fit_only_singly_one_is_told_what_is_missing() -> None:
    async def scene() -> None:
        async with node() as it:
            outcomes = await at_once(it.load("a", load_seconds=0.2), it.load("b", load_seconds=0.2))
            (loaded,) = (each for each in outcomes if isinstance(each, Replica))
            (refused,) = (each for each in outcomes if isinstance(each, InsufficientMemory))

            # 4096 in all, 2500 taken, 256 kept free.
            assert "1340 MiB can be used: 1160 MiB are missing" in str(refused)
            other = "b" if loaded.spec.id == "a" else "a"
            await it.models.unload(loaded.spec.id)
            assert (await it.load(other)).state == "ready"

    play(scene)


def test_an_unload_returns_when_the_memory_is_back_and_the_process_gone() -> None:
    async def scene() -> None:
        async with node() as it:
            replica = await it.load("m")
            pid = replica.describe(None).pid
            assert pid is not None
            assert it.free_mb() == TOTAL_MB - 2500
            await it.models.unload("m")

            assert it.free_mb() == TOTAL_MB
            assert not alive(pid)
            assert it.models.describe() == []
            with pytest.raises(ModelNotFound):
                it.models.get("m")
            with pytest.raises(ModelNotFound):
                await it.models.unload("m")

    play(scene)


def test_what_a_load_and_the_unload_before_it_took_is_listed() -> None:
    async def scene() -> None:
        async with node() as it:
            replica = await it.load("m", load_seconds=0.2)
            assert replica.describe(None).unload_seconds is None
            await it.models.unload("m")
            listed = (await it.load("m")).describe(None)
            assert listed.unload_seconds is not None
            assert 0 < listed.unload_seconds < 5
            assert listed.load_seconds is not None

    play(scene)


def test_what_a_replica_that_fails_said_last_is_listed() -> None:
    async def scene() -> None:
        async with node() as it:
            with pytest.raises(EngineFailed):
                await it.load("m", fault="abort", fault_at="load")
            (listed,) = it.models.describe()

            assert (listed.status, listed.last_words) == ("failed", ["simulated fault, as ordered: abort in load"])

    play(scene)


def test_what_a_load_has_reserved_is_never_counted_beside_what_it_uses() -> None:
    """The first load stands between the two; 1500 and 1500 fit on 4096."""

    async def scene() -> None:
        async with node(held=2) as it, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: it.load("a", memory_mb=1500))
            await it.readings.waiting.wait()  # type: ignore[attr-defined]
            try:
                assert (await it.load("b", memory_mb=1500)).state == "ready"
            finally:
                it.readings.gate.set()  # type: ignore[attr-defined]

    play(scene)


def test_a_load_that_fails_reserves_nothing() -> None:
    async def scene() -> None:
        async with node() as it:
            with pytest.raises(LoadFailed, match="as declared"):
                await it.load("m", fail_load="as declared")
            failed = it.models.describe()[0]

            assert (failed.status, failed.error, failed.pid) == ("failed", "as declared", None)
            assert it.free_mb() == TOTAL_MB
            assert (await it.load("m")).state == "ready"
            assert it.models.describe()[0].error is None

    play(scene)


REFUSED: dict[str, tuple[ModelSpec, Any, type[CortexError], str]] = {
    "an engine that is not here": (ModelSpec(id="m", engine="vllm"), "auto", NoFeasibleNode, "there is simulated"),
    "an option that is misspelt": (spec_of("m", slts=1), "auto", LoadFailed, r"options\.slts is not an option"),
    "a number beyond all measure": (spec_of("m", slots=10**30), "auto", LoadFailed, "more than 64 bits"),
    "more devices than there are": (spec_of("m"), 3, NoFeasibleNode, "3 devices"),
    "a device that is not there": (spec_of("m"), [7], NoFeasibleNode, r"\[7\] were asked for"),
    "more than the device has": (spec_of("m", memory_mb=5000), "auto", InsufficientMemory, "1160 MiB are missing"),
}


@pytest.mark.parametrize(("spec", "wish", "raised", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_load_that_cannot_be_is_refused_with_the_reason(
    spec: ModelSpec, wish: Any, raised: type[CortexError], said: str
) -> None:
    async def scene() -> None:
        async with node() as it:
            with pytest.raises(raised, match=said):
                await it.models.load(spec, wish)

            assert (await it.load("other")).state == "ready"

    play(scene)


def test_a_model_goes_on_the_devices_that_were_named() -> None:
    async def scene() -> None:
        async with node(4096, 4096) as it:
            first, second = await it.load("a", [1]), await it.load("b")

            assert first.describe(None).devices == [1]
            assert second.describe(None).devices == [0]

    play(scene)


def test_files_that_are_not_there_fail_the_load(tmp_path: Path) -> None:
    async def scene() -> None:
        async with node() as it:
            it.models._discovery.engines.append("llamacpp")
            with pytest.raises(LoadFailed, match=r"missing\.gguf"):
                await it.models.load(ModelSpec(id="m", source=str(tmp_path / "missing.gguf")), "auto")

    play(scene)


def test_a_killed_engine_comes_back_with_its_memory_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.neuron.replica.BACKOFF_SECONDS", 0.01)

    async def scene() -> None:
        async with node() as it:
            replica = await it.load("m", tokens_per_second=20)
            assert replica.running is not None
            pid = replica.running.process.pid
            async with answer_of(replica) as events:
                await anext(events)
                os.kill(pid, signal.SIGKILL)
                with pytest.raises(EngineFailed, match="SIGKILL"):
                    async for _ in events:
                        pass
            while replica.state != "loading":
                await checkpoint()
            assert (await it.load("m")) is replica

            assert replica.state == "ready"
            assert replica.restarts == 1
            assert replica.describe(None).pid not in (pid, None)
            assert it.free_mb() == TOTAL_MB - 2500

    play(scene)


def test_an_unload_cuts_a_load_short_and_its_waiters_hear_of_it() -> None:
    async def scene() -> None:
        async with node() as it:
            waiting: list[Any] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(outcome, it.load("m", load_seconds=1000), waiting)
                while not any(info.progress and info.progress.stage == "load" for info in it.models.describe()):
                    await anyio.sleep(0.01)
                await it.models.unload("m")

            assert isinstance(waiting[0], ShuttingDown)
            assert it.free_mb() == TOTAL_MB

    play(scene)


def test_a_load_waits_out_the_unload_before_it() -> None:
    async def scene() -> None:
        async with node() as it:
            first = await it.load("m", tokens_per_second=20)
            second: list[Any] = []
            async with anyio.create_task_group() as tasks, answer_of(first) as events:
                await anext(events)
                tasks.start_soon(it.models.unload, "m")
                await anyio.wait_all_tasks_blocked()
                assert first.state == "draining"
                tasks.start_soon(outcome, it.load("m"), second)
                await anyio.wait_all_tasks_blocked()
                assert second == []

            assert second[0] is not first
            assert (first.state, second[0].state) == ("unloaded", "ready")
            assert it.models.get("m") is second[0]

    play(scene)


def test_a_closed_table_loads_nothing_more_and_leaves_no_process() -> None:
    async def scene() -> None:
        async with node() as it:
            replica = await it.load("m")
            pid = replica.describe(None).pid
            assert pid is not None
            await it.models.close()

            assert not alive(pid)
            with pytest.raises(ShuttingDown):
                await it.load("other")

    play(scene)


def test_a_drain_has_a_bound() -> None:
    async def scene() -> None:
        async with node(limits=Limits(drain_seconds=0.1)) as it:
            replica = await it.load("m", tokens_per_second=1)
            async with answer_of(replica) as events:
                await anext(events)
                await it.models.close()

                assert replica.state == "unloaded"

    play(scene)


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    async def scene() -> None:
        async with node() as it:
            await it.load("org/demo-7b")
            with pytest.raises(ModelNotFound, match="did you mean org/demo-7b"):
                it.models.get("org/demo-7")

    play(scene)


EMPTY: dict[str, Any] = {"hostname": "", "os": "", "kernel": "", "boot_id": "", "version": "", "engines": []}


def test_a_load_that_cannot_tell_its_progress_is_weighed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "WEIGH_SECONDS", 0.01)

    class Scales(Readings):
        def memory_of(self, pid: int) -> int | None:
            return 500 * MIB

    async def scene() -> None:
        async with node() as it, anyio.create_task_group() as tasks:
            table = Memory(Discovery(**EMPTY, devices=it.devices), Scales(it.devices, all_probes()))
            loader = Loader(NeuronConfig(), table, Measured(tmp_path / "measured.json"))
            replica = Replica(spec_of("m"), "auto", 1)
            replica.progress = LoadProgress("weights")
            tasks.start_soon(loader._weigh, replica, 1, 2000 * MIB)
            while replica.progress.percent is None:
                await anyio.sleep(0.01)
            assert replica.progress == LoadProgress("weights", 25.0)
            replica.progress = told = LoadProgress("warm-up", 50.0)
            await anyio.sleep(0.05)
            assert replica.progress is told
            tasks.cancel_scope.cancel()

    play(scene)


def test_two_loads_at_once_find_room_on_two_devices() -> None:
    async def scene() -> None:
        async with node(3000, 3000) as it:
            replicas = await at_once(it.load("a"), it.load("b"))

            devices = [replica.running.devices for replica in replicas if replica.running is not None]
            assert sorted(devices) == [[0], [1]]

    play(scene)


def test_a_load_with_other_settings_leaves_the_replica_as_it_is_and_says_so() -> None:
    async def scene() -> None:
        async with node() as it:
            first = await it.load("a")
            with capture_logs() as logs:
                again = await it.load("a", tokens_per_second=7)

            assert again is first
            assert [(line["event"], line["differs"]) for line in logs if line["event"] == "load_differs"] == [
                ("load_differs", ["options"])
            ]

    play(scene)


def test_a_model_too_large_for_one_device_is_shared_by_as_few_as_hold_it() -> None:
    async def scene() -> None:
        async with node(3000, 3000, 3000) as it:
            await it.load("m", memory_mb=5000)
            (listed,) = it.models.describe()

            assert (listed.devices, listed.memory_bytes) == ([0, 1], 5000 * MIB)
            assert listed.bytes_by_device == listed.peak_by_device == {0: 2500 * MIB, 1: 2500 * MIB}
            assert [it.free_mb(index) for index in (0, 1, 2)] == [500, 500, 3000]

    play(scene)


def test_a_process_that_sees_too_few_devices_is_followed_by_one_that_sees_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on GPUs, of which a process sees only those it was started with."""
    monkeypatch.setattr(loading, "_visible", lambda rooms: {"SEEN": ",".join(str(room.index) for room in rooms)})

    async def scene() -> None:
        async with node(3000, 3000) as it:
            with capture_logs() as logs:
                replica = await it.load("m", memory_mb=5000)
            assert replica.running is not None
            seen = replica.running.process._env["SEEN"]

            assert (seen, replica.running.devices) == ("0,1", [0, 1])
            assert [line["devices"] for line in logs if line["event"] == "load_moved"] == [[0, 1]]
            assert it.free_mb(0) == it.free_mb(1) == 500

    play(scene)


def test_a_number_of_devices_is_kept_to_even_if_more_would_hold_it() -> None:
    async def scene() -> None:
        async with node(3000, 3000) as it:
            with pytest.raises(InsufficientMemory, match="device 0"):
                await it.load("m", 1, memory_mb=5000)

    play(scene)


def test_what_a_replica_took_is_what_the_next_load_is_fit_by(cache: Path) -> None:
    """The engine would say 700: only a measurement can say something else."""

    async def scene() -> None:
        async with node() as it:
            replica = await it.load("measured", memory_mb=700)
            first = it.models.describe()[0]
            footprint = footprint_of(
                replica.spec, [Room(0, "simulated", "", 0, total_bytes=TOTAL_MB << 20)], first.engine_version
            )
            assert first.estimate_basis == "estimate"
            await it.models.unload("measured")
            assert Measured(cache / "measured.json").get(footprint) == (700 * MIB,)
            it.models._loader._measured.note(footprint, [900 * MIB])
            await it.load("measured", memory_mb=700)
            again = it.models.describe()[0]

            assert (again.estimate_basis, again.estimated_by_device) == ("measured", {0: 900 * MIB})

    play(scene)


@pytest.mark.parametrize(
    ("words", "needed_mb"), [("Tried to allocate 300 MiB: out of memory", 1000), ("std::bad_alloc", 770)]
)
def test_a_load_that_runs_out_of_memory_is_fit_better_the_next_time(words: str, needed_mb: int) -> None:
    async def scene() -> None:
        async with node(1200) as it:
            with pytest.raises(LoadFailed, match="alloc"):
                await it.load("m", memory_mb=700, fail_load=words)
            estimate = await it.models.estimate(spec_of("m", memory_mb=700, fail_load=words), 1)
            assert (estimate.bytes_per_device, estimate.basis) == ({0: needed_mb * MIB}, "measured")
            with pytest.raises((LoadFailed, InsufficientMemory)) as caught:
                await it.load("m", memory_mb=700, fail_load=words)

            assert estimate.fits is isinstance(caught.value, LoadFailed) is (needed_mb <= 1200 - 256)

    play(scene)


def test_a_load_that_fails_of_something_else_has_measured_nothing(cache: Path) -> None:
    async def scene() -> None:
        async with node() as it:
            with pytest.raises(LoadFailed):
                await it.load("m", memory_mb=701, fail_load="a broken file")

            assert all(peak.of.options.get("memory_mb") != 701 for peak in it.models._loader._measured._table.values())

    play(scene)


def test_what_is_measured_is_on_disk_while_the_replica_lives(cache: Path) -> None:
    """The daemon may be killed at any time."""

    async def scene() -> None:
        async with node() as it:
            replica = await it.load("m", memory_mb=702)
            footprint = footprint_of(
                replica.spec, [Room(0, "simulated", "", 0, total_bytes=TOTAL_MB << 20)], __version__
            )
            while Measured(cache / "measured.json").get(footprint) is None:
                await anyio.sleep(0.01)

    play(scene)


def test_an_unload_answers_when_a_driver_has_given_the_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device shows what the replica held for two readings more."""
    monkeypatch.setattr(memory, "FREED_RETRY_SECONDS", 0.01)

    async def scene() -> None:
        async with node() as it:
            await it.load("m", memory_mb=2500)
            release, refresh, late = it.readings.release, it.readings.refresh, iter(range(2))

            def keep(owner: str) -> None:
                release(owner)
                it.readings.declare(0, "driver", 2500 * MIB)

            async def give_back() -> None:
                await refresh()
                if next(late, None) is None:
                    release("driver")

            monkeypatch.setattr(it.readings, "release", keep)
            monkeypatch.setattr(it.readings, "refresh", give_back)
            await it.models.unload("m")

            assert it.free_mb() == TOTAL_MB

    play(scene)


def test_unloads_that_completed_are_counted() -> None:
    async def scene() -> None:
        async with node() as it:
            for _ in range(2):
                await it.load("m")
                await it.models.unload("m")
            with pytest.raises(ModelNotFound):
                await it.models.unload("m")

            assert it.models.cycles == 2

    play(scene)


@pytest.mark.parametrize(
    ("asked", "differing"),
    [
        (ModelSpec(id="m"), []),
        (ModelSpec(id="m", context=1024), []),
        (ModelSpec(id="m", context=2048, quant="Q8_0"), ["quant", "context"]),
        (ModelSpec(id="m", harness="simulated"), ["engine"]),
        (ModelSpec(id="m", engine="llamacpp"), []),
    ],
)
def test_only_what_is_asked_for_can_differ(asked: ModelSpec, differing: list[str]) -> None:
    assert differences(asked, ModelSpec(id="m", context=1024)) == differing
