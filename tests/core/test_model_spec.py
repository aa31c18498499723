from __future__ import annotations

import math
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
        ({"min_devices": 0}, "min_devices = 0: expected at least 1"),
        ({"min_device_vram_mb": -1}, "min_device_vram_mb = -1: expected at least 1"),
        ({"min_device_memory": "24 XB"}, "min_device_memory = '24 XB': expected MiB, or text such as"),
        ({"min_device_memory": 0}, "min_device_memory = 0: expected more than 0"),
        ({"min_device_memory": 1, "min_device_vram_mb": 1}, "mean the same: keep one of the two"),
        ({"ttl": "soon"}, "ttl = 'soon': expected seconds, or text such as"),
        ({"ttl": 0}, "ttl = 0.0: expected more than 0"),
        ({"ttl": "0s"}, "ttl = '0s': expected more than 0"),
        ({"ttl": -1.5}, "ttl = -1.5: expected more than 0"),
        ({"ttl": math.inf}, "ttl = inf: expected seconds"),
        ({"ttl": math.nan}, "ttl = nan: expected seconds"),
        ({"min_resident": -1}, "min_resident = -1: expected a number of replicas, at least 0"),
        ({"max_replicas": 0}, "max_replicas = 0: expected at least 1"),
        (
            {"min_resident": 3, "max_replicas": 2},
            "max_replicas = 2: expected at least 1, and not less than min_resident",
        ),
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


def test_unless_told_otherwise_a_model_stays_until_it_is_displaced_and_is_loaded_once_on_demand() -> None:
    bare = check_spec(spec(), "here")

    assert (bare.ttl_seconds, bare.min_resident, bare.max_replicas, bare.priority) == (None, 0, 1, 100)
    assert bare.device_floor_bytes == 0
    assert not bare.is_pinned_on("a")


@pytest.mark.parametrize(("ttl", "seconds"), [(90, 90.0), (0.5, 0.5), ("15m", 900.0), ("2h", 7200.0)])
def test_a_time_to_live_is_in_seconds_or_has_a_unit(ttl: float | str, seconds: float) -> None:
    assert check_spec(spec(ttl=ttl), "here").ttl_seconds == seconds


@pytest.mark.parametrize(
    ("keys", "floor"),
    [
        ({"min_device_memory": "24 GB"}, 24 * 10**9),
        ({"min_device_memory": "24GiB"}, 24 << 30),
        ({"min_device_memory": 8000}, 8000 << 20),
        ({"min_device_vram_mb": 8000}, 8000 << 20),
    ],
)
def test_what_each_device_must_have_is_said_in_either_way(keys: dict[str, Any], floor: int) -> None:
    assert check_spec(spec(**keys), "here").device_floor_bytes == floor


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [({}, "auto"), ({"devices": 2}, 2), ({"min_devices": 3}, 3), ({"devices": 2, "min_devices": 3}, 2)],
)
def test_min_devices_is_another_word_for_devices(keys: dict[str, int], wanted: int | str) -> None:
    assert check_spec(spec(**keys), "here").wanted_devices == wanted


def test_pinned_holds_everywhere_and_pinned_on_where_it_says() -> None:
    assert spec(pinned=True).is_pinned_on("anywhere")
    assert spec(pinned_on=["a"]).is_pinned_on("a")
    assert not spec(pinned_on=["a"]).is_pinned_on("b")
    assert spec(pinned=True).allowed_nodes == frozenset()


def test_replicas_may_be_kept_as_many_as_there_may_be() -> None:
    assert check_spec(spec(min_resident=2, max_replicas=2), "here")


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
        {"ttl": True},
        {"min_device_memory": 1.5},
        {"min_device_memory": True},
        {"min_resident": "1"},
        {"max_replicas": 1.5},
        {"priority": "high"},
        {"id": None},
    ],
)
def test_a_spec_of_the_wrong_shape_is_not_read(keys: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        spec(**keys)


def test_options_name_further_files_once_each() -> None:
    lora = ["/a.gguf", {"source": "hf:o/r:F16", "scale": 2}, "/a.gguf", 5]
    subject = spec(options={"mmproj": "/p.gguf", "draft": "hf:o/d", "lora": lora})

    assert subject.option_sources == ("/p.gguf", "hf:o/d", "/a.gguf", "hf:o/r:F16")
    assert spec(options={"mmproj": False}).option_sources == ()


def test_a_further_file_has_a_source_like_any_other() -> None:
    with pytest.raises(ConfigError, match=r"here: source 'p\.gguf': expected hf:"):
        check_spec(spec(options={"mmproj": "p.gguf"}), "here")
