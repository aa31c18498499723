from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cortex.core.errors import ConfigError
from cortex.core.model_spec import DEFAULT_ENGINE, ModelSpec, check_spec


def spec(**keys: Any) -> ModelSpec:
    return msgspec.convert({"id": "org/repo", **keys}, ModelSpec)


def test_a_bare_id_names_a_hub_repository_for_the_default_engine() -> None:
    bare = check_spec(spec(), "here")

    assert bare.source_name == "hf:org/repo"
    assert bare.engine_name == DEFAULT_ENGINE
    assert bare.allowed_nodes == frozenset()
    assert bare.devices == "auto"


@pytest.mark.parametrize(
    ("keys", "engine"),
    [
        ({"engine": "simulated"}, "simulated"),
        ({"harness": "simulated"}, "simulated"),
        ({"engine": "vllm", "harness": "vllm"}, "vllm"),
    ],
)
def test_harness_is_another_word_for_engine(keys: dict[str, str], engine: str) -> None:
    assert check_spec(spec(**keys), "here").engine_name == engine


def test_nodes_and_pinned_on_together_say_where_it_may_run() -> None:
    assert spec(nodes=["a"], pinned_on=["b"]).allowed_nodes == {"a", "b"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"id": "../x"}, "'../x' is not a model id"),
        ({"id": ""}, "'' is not a model id"),
        ({"aliases": ["ok", "not ok"]}, "'not ok' is not a model id"),
        ({"engine": "llamacpp", "harness": "vllm"}, "keep one of the two"),
        ({"harness": "candle"}, "engine 'candle' belongs to the original system"),
        ({"context": 0}, "context = 0"),
        ({"context": -5}, "context = -5"),
        ({"devices": 0}, "devices = 0"),
        ({"vram_mb": 0}, "vram_mb = 0"),
        ({"source": "repo"}, "source 'repo': expected hf:org/repo"),
        ({"source": "pypi:a"}, "expected pypi:package==version"),
        ({"id": "just-a-name"}, "source 'hf:just-a-name'"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_place_and_name(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_spec(spec(**keys), "models.toml: models[3]")

    assert str(caught.value).startswith("models.toml: models[3]: ")
    assert said in str(caught.value)


def test_a_simulated_model_needs_no_files() -> None:
    assert check_spec(spec(id="just-a-name", engine="simulated"), "here")


@pytest.mark.parametrize(
    "keys",
    [
        {"devices": "all"},
        {"devices": True},
        {"context": "4k"},
        {"pinned": 1},
        {"aliases": "a"},
        {"vram": 1},
        {"id": None},
    ],
)
def test_a_spec_of_the_wrong_shape_is_not_read(keys: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        spec(**keys)
