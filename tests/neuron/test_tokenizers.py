"""Counting without a load, with real engine processes of the simulated engine, which are counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from cortex.core.errors import LoadFailed, NoFeasibleNode, ShuttingDown
from cortex.core.model_spec import ModelSpec
from cortex.neuron import tokenizers as subject
from cortex.neuron.config import Models, NeuronConfig
from cortex.neuron.devices import all_probes
from cortex.neuron.discovery import discover
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.tokenizers import ModelNotCached, Tokenizers
from cortex.wire.errors import RemoteError
from cortex.wire.json import decode_any, encode


class Desk:
    """Tokenizers on a node with two engines."""

    def __init__(self, directory: Path, tasks: TaskGroup) -> None:
        config = NeuronConfig(models=Models(cache=str(directory), hub_endpoint="http://127.0.0.1:9"))
        probes = all_probes([])
        discovery = discover([], boot_id="b", engines=["llamacpp", "simulated"], probes=lambda _: probes)
        self.tokenizers = Tokenizers(config, discovery, tasks)

    async def count(self, model: str = "m", text: Any = "one two", **fields: Any) -> int:
        spec = ModelSpec(**{"id": model, "engine": "simulated", "options": {"load_seconds": 600}} | fields)
        answer = decode_any(await self.tokenizers.tokenize(spec, encode({"content": text})))
        return int(answer["count"])


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch) -> list[EngineProcess]:
    """The engine processes that were started."""
    lives: list[EngineProcess] = []
    run = EngineProcess.run

    async def noted(self: EngineProcess) -> None:
        lives.append(self)
        await run(self)

    monkeypatch.setattr(EngineProcess, "run", noted)
    return lives


def play(scene: Callable[[Desk], Awaitable[None]], directory: Path) -> None:
    async def bounded() -> None:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                desk = Desk(directory, tasks)
                await scene(desk)
                await desk.tokenizers.close()

    anyio.run(bounded)


def test_tokens_are_counted_without_the_load_and_the_process_is_kept(tmp_path: Path, lives: list[Any]) -> None:
    async def scene(desk: Desk) -> None:
        assert [await desk.count(), await desk.count(text="one two three")] == [2, 3]
        assert len(lives) == 1
        assert not lives[0].died.is_set()

    play(scene, tmp_path)
    assert lives[0].died.is_set()


def test_another_model_takes_the_place_of_the_one_before(tmp_path: Path, lives: list[Any]) -> None:
    async def scene(desk: Desk) -> None:
        await desk.count("a")
        await desk.count("b")
        assert [each.died.is_set() for each in lives] == [True, False]

    play(scene, tmp_path)


def test_those_who_ask_at_once_share_one_process(tmp_path: Path, lives: list[Any]) -> None:
    async def scene(desk: Desk) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(desk.count)
        assert len(lives) == 1

    play(scene, tmp_path)


def test_a_process_that_nobody_used_for_a_while_is_ended(
    tmp_path: Path, lives: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "KEEP_SECONDS", 0.05)

    async def scene(desk: Desk) -> None:
        await desk.count()
        await lives[0].died.wait()
        assert await desk.count() == 2
        assert len(lives) == 2

    play(scene, tmp_path)


def test_a_process_that_died_is_replaced(tmp_path: Path, lives: list[Any]) -> None:
    async def scene(desk: Desk) -> None:
        await desk.count()
        lives[0].kill()
        await lives[0].died.wait()
        assert await desk.count() == 2

    play(scene, tmp_path)


def test_a_refusal_by_the_engine_is_told_and_costs_nothing_else(tmp_path: Path, lives: list[Any]) -> None:
    async def scene(desk: Desk) -> None:
        with pytest.raises(RemoteError) as caught:
            await desk.count(text=7)
        assert caught.value.status == 400
        assert await desk.count() == 2
        assert len(lives) == 1

    play(scene, tmp_path)


def test_a_vocabulary_that_cannot_be_loaded_says_why_and_holds_up_nobody(tmp_path: Path, lives: list[Any]) -> None:
    async def scene(desk: Desk) -> None:
        with pytest.raises(LoadFailed, match="broken on purpose"):
            await desk.count(options={"fail_load": "broken on purpose"})
        assert await desk.count() == 2

    play(scene, tmp_path)


def test_what_is_not_on_the_node_is_refused_by_a_code_of_its_own(tmp_path: Path, lives: list[Any]) -> None:
    async def scene(desk: Desk) -> None:
        with pytest.raises(ModelNotCached, match="nothing is fetched for counting tokens") as caught:
            await desk.count(engine="llamacpp", source="hf:org/m", options={})
        assert (caught.value.status, caught.value.code) == (409, "model_not_cached")

    play(scene, tmp_path)
    assert lives == []


def test_an_engine_that_is_not_installed_is_named(tmp_path: Path, lives: list[Any]) -> None:
    async def scene(desk: Desk) -> None:
        with pytest.raises(NoFeasibleNode, match="'vllm' is not installed here"):
            await desk.count(engine="vllm")

    play(scene, tmp_path)


def test_nothing_is_started_once_the_node_closes(tmp_path: Path, lives: list[Any]) -> None:
    async def scene(desk: Desk) -> None:
        await desk.tokenizers.close()
        with pytest.raises(ShuttingDown):
            await desk.count()

    play(scene, tmp_path)
    assert lives == []
