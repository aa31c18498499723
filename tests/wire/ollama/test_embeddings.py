from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from cortex.core.errors import BadRequest, EngineFailed, UpstreamFailed
from cortex.wire.engine_api import Timings
from cortex.wire.ollama import Embedding, EmbeddingTranslation, read_embed, read_embeddings
from cortex.wire.openai import read_request


def embed(**fields: Any) -> Embedding:
    return read_embed(json.dumps({"model": "m:latest", "input": ["a", "b"], **fields}).encode())


def embeddings(**fields: Any) -> Embedding:
    return read_embeddings(json.dumps({"model": "m:latest", "prompt": "a", **fields}).encode())


def answer(*vectors: Any, prompt_tokens: int = 7) -> bytes:
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in vectors]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return json.dumps({"object": "list", "model": "m", "data": data, "usage": usage}).encode()


@pytest.mark.parametrize(
    ("subject", "texts"), [(embed(), ["a", "b"]), (embed(input="a"), ["a"]), (embeddings(), ["a"])]
)
def test_a_request_is_the_hubs(subject: Embedding, texts: list[str]) -> None:
    assert json.loads(read_request("embedding", subject.body).body) == {"input": texts}
    assert json.loads(subject.body)["model"] == subject.model == "m"
    assert (subject.count, subject.loads_only, subject.ignored) == (len(texts), False, ())


@pytest.mark.parametrize(("dimensions", "expected"), [(64, {"dimensions": 64}), (0, {}), (None, {})])
def test_vectors_may_be_shortened(dimensions: int | None, expected: dict[str, int]) -> None:
    subject = embed(dimensions=dimensions)

    assert json.loads(read_request("embedding", subject.body).body) == {"input": ["a", "b"], **expected}
    assert subject.ignored == ()


def test_vectors_come_back_in_the_order_of_their_texts() -> None:
    raw = embed().answer(answer((1, [0.25, -1e-7]), (0, [1, 2])), Timings(1.0, 2.0, 0.0), load_ms=4.0)

    assert json.loads(raw) == {
        "model": "m:latest",
        "embeddings": [[1.0, 2.0], [0.25, -1e-7]],
        "total_duration": 7_000_000,
        "load_duration": 4_000_000,
        "prompt_eval_count": 7,
    }


def test_the_older_endpoint_has_one_vector() -> None:
    assert json.loads(embeddings().answer(answer((0, [0.5])))) == {"embedding": [0.5]}


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (embed(input=[]), []),
        (embed(input=""), []),
        (embed(input=None), []),
        (embeddings(prompt=""), None),
        (embeddings(prompt=None), None),
    ],
)
def test_a_request_of_nothing_only_loads(subject: Embedding, expected: Any) -> None:
    answered = json.loads(subject.loaded())

    assert (subject.loads_only, subject.body) == (True, b"")
    assert answered == {"embedding": []} if expected is None else answered["embeddings"] == expected


def test_what_does_not_change_the_vectors_is_ignored_by_name() -> None:
    subject = embed(truncate=True, options={"num_ctx": 1}, keep_alive=-1, dimensions=None)

    assert (subject.ignored, subject.keep_loaded_seconds) == (("keep_alive", "options", "truncate"), math.inf)
    assert embeddings(keep_alive=0).ignored == ()


@pytest.mark.parametrize(
    ("read", "fields", "param"),
    [
        (embed, {"dimensions": -1}, "dimensions"),
        (embed, {"dimensions": "64"}, "dimensions"),
        (embed, {"input": ["a", ""]}, "input[1]"),
        (embed, {"input": ["a", 3]}, "input[1]"),
        (embed, {"input": 3}, "input"),
        (embed, {"model": ""}, "model"),
        (embed, {"keep_alive": "x"}, "keep_alive"),
        (embeddings, {"prompt": ["a"]}, "prompt"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    read: Callable[..., Embedding], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)

    assert caught.value.param == param


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"data":[{"embedding":["a"]}]}',
        answer((0, [1])),
        answer((0, [1]), (0, [1])),
        answer((0, [1]), (1, [1]), (2, [1])),
    ],
)
def test_an_answer_that_is_none_is_the_nodes_fault(raw: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        embed().answer(raw)


# as a translation -----------------------------------------------------------------------------------------------------


def test_a_translation_is_of_its_request() -> None:
    asked = embed(keep_alive=0, truncate=True)
    subject = EmbeddingTranslation(asked)

    assert (subject.model, subject.body, subject.ignored) == ("m", asked.body, ("truncate",))
    assert (subject.stream, subject.loads_only, subject.keep_loaded_seconds) == (False, False, 0)


def test_a_translation_tells_of_the_time_that_was_noted() -> None:
    asked, vectors = embed(), answer((0, [1]), (1, [2]))
    subject = EmbeddingTranslation(asked)
    subject.note_timings(Timings(1.0, 2.0, 0.0), 4.0)

    assert subject.whole(vectors) == asked.answer(vectors, Timings(1.0, 2.0, 0.0), 4.0)
    assert json.loads(subject.whole(vectors))["load_duration"] == 4_000_000


def test_a_translation_of_nothing_says_that_the_model_is_there() -> None:
    asked = embeddings(prompt="")
    subject = EmbeddingTranslation(asked)

    assert subject.loads_only
    assert subject.loaded("unload") == asked.loaded()


def test_a_translation_has_no_stream() -> None:
    subject = EmbeddingTranslation(embed())

    assert subject.feed(answer((0, [1]))) + subject.keep_alive("on") + subject.end() == b""
    assert subject.fail(EngineFailed("gone")) == b""
