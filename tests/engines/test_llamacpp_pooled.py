"""Embeddings and reranking by llama.cpp, on encoders of a few kilobytes."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.engines.llamacpp import LlamaCpp
from cortex.wire import json
from cortex.wire.engine_api import Chunk, Device, EngineSpec, Finished, Generate, Kind, ReplicaInfo, Tokenize
from cortex.wire.openai import read_request
from tiny_gguf import MEAN, RANK, write_encoder

CPU = Device(index=0, kind="cpu", name="cpu", memory_free_bytes=8 << 30)
SEA, BREAD = "the sea is wide", "bread"


class Loaded:
    """An encoder in llama.cpp, and the loop it lives on."""

    def __init__(self, path: Path, runner: asyncio.Runner, **options: Any) -> None:
        self._engine, self._runner = LlamaCpp(), runner
        only = options.pop("vocabulary_only", False)
        spec = EngineSpec(
            model="tiny", engine="llamacpp", path=str(path), devices=(CPU,), options=options, vocabulary_only=only
        )
        self.info: ReplicaInfo = runner.run(self._engine.load(spec, lambda *_: None))

    def tokens(self, text: str) -> Any:
        body = json.encode({"content": text})
        return json.decode_any(self._runner.run(self._engine.tokenize(Tokenize("t", body))))["tokens"]

    def ask(self, kind: Kind, **fields: Any) -> tuple[dict[str, Any], Finished]:
        body = read_request(kind, json.encode({"model": "tiny", **fields})).body

        async def collect() -> list[Any]:
            return [event async for event in self._engine.generate(Generate("r", kind, body))]

        chunk, finished = self._runner.run(collect())
        assert isinstance(chunk, Chunk)
        assert isinstance(finished, Finished)
        return json.decode_any(chunk.data), finished

    def vectors(self, given: Any, **fields: Any) -> list[Any]:
        return [each["embedding"] for each in self.ask("embedding", input=given, **fields)[0]["data"]]


Load = Callable[..., Loaded]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    directory = tmp_path_factory.mktemp("encoders")
    with asyncio.Runner() as runner:

        def load(pooling: int, **options: Any) -> Loaded:
            return Loaded(write_encoder(directory / "tiny.gguf", pooling), runner, **options)

        yield load


@pytest.fixture(scope="module")
def encoder(load: Load) -> Loaded:
    return load(MEAN, slots=1)


@pytest.fixture(scope="module")
def ranker(load: Load) -> Loaded:
    return load(RANK, slots=1)


def test_an_encoder_embeds_without_being_told_to(encoder: Loaded) -> None:
    assert encoder.info.capabilities == ("embeddings",)
    answer, finished = encoder.ask("embedding", input=[SEA, BREAD, SEA])

    first, second, third = (each["embedding"] for each in answer["data"])
    assert first == third != second
    assert math.isclose(sum(value * value for value in first), 1.0, rel_tol=1e-5)
    assert [each["index"] for each in answer["data"]] == [0, 1, 2]
    assert (answer["object"], answer["model"]) == ("list", "tiny")
    assert finished.usage.prompt_tokens == answer["usage"]["prompt_tokens"] == 6 + 3 + 6


def test_token_ids_are_embedded_one_list_or_many(encoder: Loaded) -> None:
    (alone,) = encoder.vectors([2, 4, 5, 3])

    assert encoder.vectors([[2, 4, 5, 3], [2, 6, 3]])[0] == pytest.approx(alone, abs=1e-5)
    assert encoder.vectors("the sea")[0] == pytest.approx(alone, abs=1e-5)


def test_base64_is_the_same_vector(encoder: Loaded) -> None:
    (plain,), (packed,) = encoder.vectors(SEA), encoder.vectors(SEA, encoding_format="base64")

    assert struct.unpack("<32f", base64.b64decode(packed)) == pytest.approx(plain, abs=1e-6)


def test_dimensions_are_refused_by_name_where_nobody_says_that_vectors_can_be_shortened(encoder: Loaded) -> None:
    with pytest.raises(BadRequest, match="matryoshka = true") as caught:
        encoder.vectors(SEA, dimensions=8)

    assert (caught.value.param, caught.value.code) == ("dimensions", "unsupported_parameter")


def test_a_matryoshka_model_gives_as_many_dimensions_as_asked_for(load: Load, encoder: Loaded) -> None:
    (whole,) = encoder.vectors(SEA)
    (short,) = load(MEAN, slots=1, matryoshka=True).vectors(SEA, dimensions=8)

    length = math.sqrt(sum(value * value for value in whole[:8]))
    assert short == pytest.approx([value / length for value in whole[:8]], abs=1e-5)


def test_a_text_that_is_too_long_is_refused_with_both_counts(encoder: Loaded) -> None:
    with pytest.raises(ContextLengthExceeded, match="64"):
        encoder.vectors("sea " * 100)


def test_an_encoder_neither_writes_nor_ranks(encoder: Loaded) -> None:
    with pytest.raises(BadRequest, match="was not loaded for text generation"):
        encoder.ask("completion", prompt="x")
    with pytest.raises(BadRequest, match="was not loaded for rerank"):
        encoder.ask("rerank", query="sea", documents=[SEA])


def test_a_model_made_to_rank_gives_a_score_for_each_document_in_their_order(ranker: Loaded) -> None:
    assert ranker.info.capabilities == ("rerank",)
    answer, finished = ranker.ask("rerank", query="sea", documents=[SEA, BREAD, SEA])

    first, second, third = answer["scores"]
    assert first == pytest.approx(third, abs=1e-5)
    assert first != second
    assert all(0 < score < 1 for score in answer["scores"])
    assert finished.usage.prompt_tokens > 9


def test_a_model_made_to_rank_does_not_embed(ranker: Loaded) -> None:
    with pytest.raises(BadRequest, match="was not loaded for embeddings"):
        ranker.vectors(SEA)


def test_a_document_that_is_too_long_for_the_ranker_is_refused(ranker: Loaded) -> None:
    with pytest.raises(ContextLengthExceeded):
        ranker.ask("rerank", query="sea", documents=[SEA, "sea " * 100])


@pytest.mark.parametrize("text", ["the sea", "The SEA is [SEP] unheard-of", ""])
def test_an_encoder_s_vocabulary_alone_gives_its_tokens(load: Load, encoder: Loaded, text: str) -> None:
    """Its architecture is another one, which tokens do not depend on."""
    assert load(MEAN, vocabulary_only=True).tokens(text) == encoder.tokens(text)
