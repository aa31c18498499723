"""What the binding calls back with, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cortex.core.errors import ContextLengthExceeded
from cortex.engines.llamacpp import LlamaCpp
from cortex.engines.llamacpp_reading import Tally
from cortex.wire.engine_api import Chunk, Device, EngineSpec, Finished, Generate, Usage
from tiny_vision import write_adapter, write_decoder


def chunk_at(created: int, text: str) -> bytes:
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return json.dumps({"choices": [delta], "created": created, "id": "c"}, separators=(",", ":")).encode()


def test_every_chunk_of_a_stream_was_created_when_its_first_one_was() -> None:
    """The binding stamps each with the second it was made in; an answer may take many."""
    engine, tally = LlamaCpp(), Tally(1)
    read: list[dict[str, Any]] = []
    for at, text in [(100, "a"), (100, "b"), (101, 'said "created":101 and "created":100'), (102, "d")]:
        events = engine._read(chunk_at(at, text), "r", tally, None)
        read += [json.loads(event.data) for event in events if isinstance(event, Chunk)]

    assert [chunk["created"] for chunk in read] == [100] * 4
    assert read[2]["choices"][0]["delta"]["content"] == 'said "created":101 and "created":100'


CPU = Device(0, "cpu", "cpu", 8 << 30)


class Loaded:
    """A tiny model with *options*, and the loop it lives on."""

    def __init__(self, path: Path, runner: asyncio.Runner, context: int | None = None, **options: Any) -> None:
        self.engine, self._runner = LlamaCpp(), runner
        files = {source: source for source in map(str, path.parent.glob("*.gguf"))}
        spec = EngineSpec(
            model="m",
            engine="llamacpp",
            path=str(path),
            devices=(CPU,),
            context=context,
            options={"threads": 1, **options},
            files=files,
        )
        self.info = runner.run(self.engine.load(spec, lambda *_: None))

    def write(self, prompt: str, tokens: int = 24) -> tuple[str, Usage]:
        """Return what the model writes after *prompt*, greedily, and the tokens that were counted."""

        async def collect() -> tuple[str, Usage]:
            text, usage = "", Usage()
            body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0}).encode()
            async for event in self.engine.generate(Generate("r", "completion", body)):
                if isinstance(event, Chunk):
                    text += json.loads(event.data)["choices"][0]["text"]
                elif isinstance(event, Finished):
                    usage = event.usage
            return text, usage

        return self._runner.run(collect())


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def plain(tiny: Path, runner: asyncio.Runner) -> Loaded:
    return Loaded(tiny, runner)


PROMPT = "a list: red, blue, red, blue, red, blue, red"


@pytest.mark.parametrize(("context", "enforced"), [(None, 2048), (512, 512), (1000, 1024), (9000, 2048)])
def test_the_context_that_is_told_is_the_one_that_is_enforced(
    tiny: Path, runner: asyncio.Runner, context: int | None, enforced: int
) -> None:
    loaded = Loaded(tiny, runner, context, slots=2)

    assert loaded.info.context_tokens == enforced
    assert loaded.write("a" * (enforced - 4), tokens=1)[1].prompt_tokens == enforced - 2
    with pytest.raises(ContextLengthExceeded, match=str(enforced)):
        loaded.write("a" * enforced, tokens=1)


def test_what_guesses_ahead_changes_no_token(tiny: Path, runner: asyncio.Runner, plain: Loaded) -> None:
    """Guesses of a draft model and of the text's own repetitions are checked, each of them, by the model."""
    expected = plain.write(PROMPT)

    assert Loaded(tiny, runner, draft=str(tiny), draft_tokens=4).write(PROMPT) == expected
    assert Loaded(tiny, runner, ngram=True).write(PROMPT) == expected


def test_an_adapter_changes_what_is_written_as_strongly_as_it_is_scaled(
    tiny: Path, runner: asyncio.Runner, plain: Loaded
) -> None:
    adapter = str(write_adapter(tiny.parent / "adapter.gguf"))
    nothing = Loaded(tiny, runner, lora=[{"source": adapter, "scale": 0.0}])
    strong = Loaded(tiny, runner, lora=[{"source": adapter, "scale": 8.0}])

    assert nothing.write(PROMPT)[0] == plain.write(PROMPT)[0]
    assert strong.write(PROMPT)[0] != plain.write(PROMPT)[0]


@pytest.mark.parametrize(
    "options", [{"kv_type": "f32"}, {"flash_attention": False}, {"kv_type": "q8_0"}, {"batch": 16}]
)
def test_a_cache_of_another_type_still_writes(tiny: Path, runner: asyncio.Runner, options: dict[str, Any]) -> None:
    text, usage = Loaded(tiny, runner, **options).write(PROMPT)

    assert text
    assert usage.completion_tokens


def test_a_prompt_that_lost_its_slot_is_taken_back_from_memory(tiny: Path, runner: asyncio.Runner) -> None:
    """With one slot, another prompt in between takes it; what was computed of the first one is kept beside."""
    first, other = "first " * 100, "other " * 100

    def cached_after_another(**options: Any) -> tuple[int, str]:
        loaded = Loaded(tiny, runner, slots=1, **options)
        for prompt in (first, other):
            loaded.write(prompt)
        text, usage = loaded.write(first)
        return usage.cached_tokens, text

    kept, without = cached_after_another(cache_ram_mib=8), cached_after_another(cache_ram_mib=0)

    assert kept[0] > 590
    assert without[0] < 10
    assert kept[1] == without[1]
