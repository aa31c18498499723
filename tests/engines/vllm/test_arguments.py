"""What vLLM is started with, on one device, on several, and on several hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cortex.engines.transformers.folder import Folder
from cortex.engines.vllm.arguments import engine_arguments, environment
from cortex.engines.vllm.estimate import budget_of
from cortex.engines.vllm.options import read_options, split_of
from cortex.wire.engine_api import Device, EngineSpec

GIB = 1 << 30
CPU = Device(0, "cpu", "cpu", 8 * GIB, 0, 32 * GIB)
GPUS = tuple(Device(index, "cuda", "gpu", 80 * GIB, index, 80 * GIB) for index in range(4))
MODEL = Folder(
    path=Path("/models/m"),
    config={
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "vocab_size": 1000,
        "dtype": "bfloat16",
        "max_position_embeddings": 4096,
    },
    architecture="LlamaForCausalLM",
    generation={},
    tensors={"w": ("BF16", 16 * 10**9)},
)


def arguments(devices: tuple[Device, ...], model: Folder = MODEL, **options: Any) -> dict[str, Any]:
    spec = EngineSpec(model="org/m", engine="vllm", path="/models/m", devices=devices, context=4096, options=options)
    read = read_options(spec)
    split = split_of(spec, read, model)
    return engine_arguments(spec, model, read, split, budget_of(spec, model, read, split, 4096), 4096, "qwen3")


def told(devices: tuple[Device, ...], cores: range = range(4), **options: Any) -> dict[str, str]:
    spec = EngineSpec(model="org/m", engine="vllm", path="/models/m", devices=devices, options=options)
    read = read_options(spec)
    return environment(spec, read, split_of(spec, read, MODEL), cores)


def test_what_is_advertised_is_what_vllm_enforces() -> None:
    started = arguments(GPUS[:1], slots=12)

    assert (started["max_model_len"], started["max_num_seqs"]) == (4096, 12)
    assert (started["model"], started["served_model_name"]) == ("/models/m", ["org/m"])
    assert started["reasoning_parser"] == "qwen3"
    assert started["trust_remote_code"] is False


def test_memory_is_limited_to_the_plan_and_not_to_nine_tenths_of_a_gpu() -> None:
    started = arguments(GPUS[:1], slots=4)

    assert started["kv_cache_memory_bytes"] == (4 * 4096 + 2 * 128) * 131072
    assert 0.22 < started["gpu_memory_utilization"] < 0.30


def test_two_devices_and_two_stages() -> None:
    started = arguments(GPUS, pipeline_parallel=2)

    assert (started["tensor_parallel_size"], started["pipeline_parallel_size"]) == (2, 2)
    assert started["distributed_executor_backend"] is None


def test_two_hosts_are_joined_by_ray_at_its_address() -> None:
    ray = {"hosts": 2, "distributed_executor_backend": "ray", "ray_address": "10.0.0.1:6379"}
    started = arguments(GPUS, **ray)

    assert (started["tensor_parallel_size"], started["pipeline_parallel_size"]) == (4, 2)
    assert started["distributed_executor_backend"] == "ray"
    assert told(GPUS, **ray)["RAY_ADDRESS"] == "10.0.0.1:6379"


def test_ray_without_an_address_leaves_the_environments_own() -> None:
    assert "RAY_ADDRESS" not in told(GPUS, distributed_executor_backend="ray")


def test_a_model_that_embeds_is_a_pooling_one_and_a_writer_is_made_one() -> None:
    embedder = Folder(
        path=MODEL.path, config=MODEL.config, architecture="BertModel", generation={}, tensors=MODEL.tensors
    )

    assert arguments(GPUS[:1])["runner"] == "generate"
    assert arguments(GPUS[:1], embedder)["runner"] == "pooling"
    assert "convert" not in arguments(GPUS[:1], embedder)
    made = arguments(GPUS[:1], embeddings=True)
    assert (made["runner"], made["convert"], made["enable_prefix_caching"]) == ("pooling", "embed", False)
    assert "reasoning_parser" not in made


def test_graphs_are_captured_on_gpus_unless_told_otherwise() -> None:
    assert arguments(GPUS[:1])["enforce_eager"] is False
    assert arguments(GPUS[:1], eager=True)["enforce_eager"] is True
    assert arguments((CPU,))["enforce_eager"] is True
    assert arguments((CPU,), eager=False)["enforce_eager"] is False


@pytest.mark.parametrize(
    ("cores", "ranks", "bound"),
    [(4, 1, "0,1,2"), (2, 1, "0"), (1, 1, "0"), (2, 2, "0|1"), (8, 2, "0,1,2,3|4,5,6"), (2, 4, "0|1|0|1")],
)
def test_each_rank_on_a_cpu_has_cores_of_its_own_and_one_stays_free(cores: int, ranks: int, bound: str) -> None:
    assert told((CPU,), range(cores), ranks=ranks)["VLLM_CPU_OMP_THREADS_BIND"] == bound


def test_a_step_has_its_time_and_processes_start_afresh() -> None:
    environment_ = told(GPUS, step_seconds=30)

    assert environment_["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] == "30"
    assert environment_["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment_
