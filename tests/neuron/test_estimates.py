"""`/models/estimate` with real engine processes of the simulated engine, which are counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room, Wish
from cortex.neuron import estimates as subject
from cortex.neuron.config import Models, NeuronConfig, SimulatedDevice
from cortex.neuron.devices import all_probes
from cortex.neuron.discovery import discover
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.estimates import Estimates
from cortex.neuron.measured import Measured
from cortex.neuron.memory import Memory
from cortex.neuron.needs import Need, footprint_of
from cortex.neuron.readings import Readings
from cortex.wire.node_api import EstimateAnswer

MIB = 1 << 20


class Desk:
    """Estimates on a node with two simulated devices of 4096 MiB, and how many engine processes they took."""

    def __init__(self, directory: Path, hub_endpoint: str | None = None) -> None:
        simulated = [SimulatedDevice("A", 4096), SimulatedDevice("B", 4096)]
        probes = all_probes(simulated)
        config = NeuronConfig(models=Models(cache=str(directory), hub_endpoint=hub_endpoint))
        engines = ["llamacpp", "simulated"]
        self.discovery = discover(simulated, boot_id="b", engines=engines, probes=lambda _: probes)
        self.discovery.engine_versions = {"simulated": "1"}
        self.now = 0.0
        self.readings = Readings(self.discovery.devices, probes)
        self.memory = Memory(self.discovery, self.readings)
        self.measured = Measured(directory / "measured.json")
        self.estimates = Estimates(config, self.discovery, self.memory, self.measured, clock=lambda: self.now)

    async def ask(self, wish: Wish = "auto", **fields: Any) -> EstimateAnswer:
        return await self.estimates.answer(spec_of(**fields), wish)


def spec_of(**fields: Any) -> ModelSpec:
    return ModelSpec(**{"id": "m", "engine": "simulated", "options": {"memory_mb": 1000}} | fields)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engine processes that were started."""
    started: list[str] = []
    run = EngineProcess.run

    async def counted(self: EngineProcess) -> None:
        started.append(self._engine)
        await run(self)

    monkeypatch.setattr(EngineProcess, "run", counted)
    return started


def play(scene: Callable[[Desk], Awaitable[None]], desk: Desk) -> None:
    async def bounded() -> None:
        with anyio.fail_after(15):
            await desk.readings.refresh()
            await scene(desk)

    anyio.run(bounded)


def test_an_engine_is_asked_once_however_many_ask(tmp_path: Path, started: list[str]) -> None:
    async def scene(desk: Desk) -> None:
        answers: list[EstimateAnswer] = []

        async def ask() -> None:
            answers.append(await desk.ask())

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        answers.append(await desk.ask())

        assert answers == [answers[0]] * 6
        assert answers[0] == EstimateAnswer(
            model_id="m", devices=[0], bytes_per_device={0: 1000 * MIB}, basis="estimate", fits=True
        )
        assert started == ["simulated"]

    play(scene, Desk(tmp_path))


def test_whether_it_fits_is_always_told_of_now(tmp_path: Path, started: list[str]) -> None:
    async def scene(desk: Desk) -> None:
        before = await desk.ask(1)
        for index in (0, 1):
            desk.memory.reserve(
                f"other#{index}", "other", [index], Need({index: 3500 * MIB}, "estimate"), pid=1 + index
            )
        after = await desk.ask(1)

        assert (before.fits, before.missing) == (True, None)
        assert after.fits is False
        assert "660 MiB are missing" in str(after.missing)
        assert after.bytes_per_device == before.bytes_per_device
        assert started == ["simulated"]

    play(scene, Desk(tmp_path))


def test_what_was_measured_needs_no_engine(tmp_path: Path, started: list[str]) -> None:
    async def scene(desk: Desk) -> None:
        footprint = footprint_of(spec_of(), [Room(0, "simulated", "", 0, total_bytes=4096 * MIB)], "1")
        desk.measured.note(footprint, [1234 * MIB])
        answer = await desk.ask([1])

        assert (answer.devices, answer.bytes_per_device, answer.basis) == ([1], {1: 1234 * MIB}, "measured")
        assert started == []

    play(scene, Desk(tmp_path))


@pytest.mark.parametrize("source", ["hf:org/model", "pypi:nothing-of-that-name==1.0", "/nowhere/m.gguf"])
def test_files_that_are_not_here_are_not_fetched_for_an_estimate(
    tmp_path: Path, hub: Any, started: list[str], source: str
) -> None:
    async def scene(desk: Desk) -> None:
        unknown = await desk.ask(engine="llamacpp", source=source, options={})
        declared = await desk.ask(engine="llamacpp", source=source, options={}, vram_mb=100)

        assert (unknown.basis, unknown.fits, unknown.bytes_per_device) == ("unknown", None, {})
        assert ("nothing is fetched" in str(unknown.error)) is (not source.startswith("/"))
        assert unknown.devices == declared.devices != []
        assert (declared.basis, list(declared.bytes_per_device.values())) == ("declared", [100 * MIB])
        assert hub.requests == []
        assert started == []

    play(scene, Desk(tmp_path / "cache", hub.endpoint))


def test_a_file_that_changed_is_another_model(tmp_path: Path, started: list[str]) -> None:
    path = tmp_path / "m.gguf"
    ask: dict[str, Any] = {"engine": "llamacpp", "source": str(path), "options": {}}

    async def scene(desk: Desk) -> None:
        first, again = await desk.ask(**ask), await desk.ask(**ask)
        await anyio.Path(path).write_bytes(b"still not one")
        changed = await desk.ask(**ask)

        assert first == again
        assert first.error is not None
        assert changed.basis == "unknown"
        assert started == ["llamacpp"] * 2

    path.write_bytes(b"not a model")
    play(scene, Desk(tmp_path / "cache"))


def test_a_refusal_is_kept_for_a_while(tmp_path: Path, started: list[str]) -> None:
    async def scene(desk: Desk) -> None:
        answers = []
        for seconds in (0, subject.ERROR_SECONDS - 1, 1):
            desk.now += seconds
            answers.append(await desk.ask(options={"slots": 0}))

        assert {answer.error for answer in answers} == {"options.slots = 0: expected more than 0"}
        assert started == ["simulated"] * 2

    play(scene, Desk(tmp_path))


def test_an_engine_that_does_not_answer_is_given_up_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    async def hang(self: EngineProcess, _: object) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(self.started)

    monkeypatch.setattr(EngineProcess, "estimate", hang)
    monkeypatch.setattr(subject, "PROCESS_SECONDS", 0.05)

    async def scene(desk: Desk) -> None:
        answer = await desk.ask(vram_mb=10)

        assert (answer.basis, answer.bytes_per_device) == ("declared", {0: 10 * MIB})
        assert "no estimate within" in str(answer.error)
        assert len(ended) == 1

    play(scene, Desk(tmp_path))


def test_who_waits_too_long_for_its_turn_is_told_so_and_may_ask_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "ANSWER_SECONDS", 0.02)

    async def scene(desk: Desk) -> None:
        answers: list[EstimateAnswer] = []

        async def ask() -> None:
            answers.append(await desk.ask())

        async with desk.estimates._one_at_a_time, anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
        monkeypatch.setattr(subject, "ANSWER_SECONDS", 10.0)

        assert "too many estimates" in str(answers[0].error)
        assert (await desk.ask()).basis == "estimate"

    play(scene, Desk(tmp_path))


def test_only_so_many_estimates_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[str]) -> None:
    monkeypatch.setattr(subject, "MAX_KEPT", 2)

    async def scene(desk: Desk) -> None:
        for name in ("a", "b", "c", "b", "a"):
            await desk.ask(id=name)

        assert len(started) == 4

    play(scene, Desk(tmp_path))


def test_an_engine_that_is_not_here_or_devices_that_are_not_are_in_the_answer(tmp_path: Path) -> None:
    async def scene(desk: Desk) -> None:
        absent, many = await desk.ask(engine="vllm"), await desk.ask([0, 7])

        assert (absent.fits, absent.devices) == (many.fits, many.devices) == (False, [])
        assert "'vllm' is not installed here" in str(absent.error)
        assert "[0, 7] were asked for" in str(many.error)
        assert msgspec.json.decode(msgspec.json.encode(many), type=EstimateAnswer) == many

    play(scene, Desk(tmp_path))


def test_a_model_too_large_for_one_device_is_estimated_on_two(tmp_path: Path) -> None:
    async def scene(desk: Desk) -> None:
        answer = await desk.ask(options={"memory_mb": 6000})

        assert (answer.devices, answer.bytes_per_device) == ([0, 1], {0: 3000 * MIB, 1: 3000 * MIB})
        assert answer.fits is True

    play(partial(scene), Desk(tmp_path))
