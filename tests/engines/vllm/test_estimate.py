"""What a load will take under vLLM, which becomes its limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cortex.engines.transformers.folder import Folder
from cortex.engines.vllm.estimate import (
    BLOCK_TOKENS,
    CPU_BASE_BYTES,
    Budget,
    budget_of,
    bytes_by_device,
    kv_bytes_of_rank,
    memory_share,
)
from cortex.engines.vllm.options import Options, Split, read_options, split_of
from cortex.wire.engine_api import Device, EngineSpec

GIB = 1 << 30
CPU = Device(0, "cpu", "cpu", 8 * GIB, 0, 32 * GIB)
# The shape of Llama 3.1 8B: 131,072 bytes of cache a token.
MODEL = Folder(
    path=Path("/m"),
    config={
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "vocab_size": 128256,
        "dtype": "bfloat16",
    },
    architecture="LlamaForCausalLM",
    generation={},
    tensors={"w": ("BF16", 16 * 10**9)},
)


def gpus(count: int, gib: int = 24) -> tuple[Device, ...]:
    return tuple(Device(index, "cuda", "gpu", 2 * GIB, index, gib * GIB) for index in range(count))


def plan(devices: tuple[Device, ...], context: int = 8192, model: Folder = MODEL, **options: Any) -> Budget:
    spec = EngineSpec(model="m", engine="vllm", path="/m", devices=devices, context=context, options=options)
    read = read_options(spec)
    return budget_of(spec, model, read, split_of(spec, read, model), context)


def test_the_cache_holds_the_context_of_every_slot_where_there_is_room() -> None:
    budget = plan(gpus(1, 80), slots=16)

    assert 16 * 8192 <= budget.kv_tokens <= 16 * 8192 + 3 * BLOCK_TOKENS
    assert budget.cache_bytes == budget.kv_tokens * 131072


def test_where_there_is_less_the_cache_gets_what_is_left_of_the_whole_device() -> None:
    """A device that is full when the plan is made gets the same plan: something may be evicted for it."""
    budget = plan(gpus(1, 24), slots=16)

    assert 8192 < budget.kv_tokens < 16 * 8192
    assert 0.90 * 24 * GIB < budget.total_bytes < 0.95 * 24 * GIB


def test_one_request_always_fits_even_if_the_device_then_does_not() -> None:
    budget = plan(gpus(1, 16))

    assert budget.kv_tokens >= 8192
    assert budget.total_bytes > 16 * GIB


def test_the_smallest_device_decides() -> None:
    mixed = (gpus(1, 80)[0], replace_index(gpus(1, 16)[0], 1))
    budget = plan(mixed, slots=64, context=32768)

    assert budget.total_bytes < 16 * GIB


def replace_index(device: Device, index: int) -> Device:
    return Device(index, device.kind, device.name, device.memory_free_bytes, index, device.memory_total_bytes)


def test_ranks_share_weights_and_cache() -> None:
    alone, shared = plan(gpus(1, 80), slots=4), plan(gpus(2, 80), slots=4)

    assert shared.weights_bytes == alone.weights_bytes // 2
    assert shared.cache_bytes == alone.cache_bytes // 2


def test_key_value_heads_that_do_not_suffice_are_repeated() -> None:
    assert kv_bytes_of_rank(MODEL, Options(), Split(8)) == kv_bytes_of_rank(MODEL, Options(), Split(16)) == 16384


def test_stages_share_the_layers() -> None:
    assert kv_bytes_of_rank(MODEL, Options(), Split(1, 4)) == 131072 // 4


def test_a_cache_of_fp8_is_half() -> None:
    assert kv_bytes_of_rank(MODEL, Options(kv_cache_dtype="fp8"), Split()) == 131072 // 2


def test_a_latent_cache_is_what_the_config_says_on_every_rank() -> None:
    latent = {**MODEL.config, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    model = replace(MODEL, config=latent)

    assert kv_bytes_of_rank(model, Options(), Split(1)) == kv_bytes_of_rank(model, Options(), Split(8)) == 32 * 576 * 2


def test_float32_weights_are_computed_in_half_unless_told_otherwise() -> None:
    model = replace(MODEL, config={**MODEL.config, "dtype": "float32"}, tensors={"w": ("F32", 32 * 10**9)})
    automatic, told = plan(gpus(1, 80), model=model), plan(gpus(1, 80), model=model, dtype="float32")

    assert (automatic.weights_bytes, told.weights_bytes) == (16 * 10**9, 32 * 10**9)


def test_a_model_that_embeds_needs_a_cache_for_one_step() -> None:
    budget = plan(gpus(1, 80), embeddings=True)

    assert budget.kv_tokens <= 8192 + 3 * BLOCK_TOKENS


def test_ranks_on_a_cpu_add_up_with_the_processes_around_them() -> None:
    spec = EngineSpec(model="m", engine="vllm", path="/m", devices=(CPU,), options={"ranks": 2})
    budget = plan((CPU,), context=512, ranks=2)
    two = EngineSpec(model="m", engine="vllm", path="/m", devices=(CPU, replace_index(CPU, 1)))

    assert bytes_by_device(two, Split(2), budget) == dict.fromkeys((0, 1), budget.total_bytes + CPU_BASE_BYTES // 2)
    assert bytes_by_device(spec, Split(2), budget) == {0: 2 * budget.total_bytes + CPU_BASE_BYTES}


def test_each_gpu_has_its_rank_on_every_host() -> None:
    spec = EngineSpec(model="m", engine="vllm", path="/m", devices=gpus(2))
    budget = Budget(10, 20, 30, 1)

    assert bytes_by_device(spec, Split(2, 2, hosts=2), budget) == {0: 60, 1: 60}


@pytest.mark.parametrize(("bytes_", "share"), [(12 * GIB, 0.5), (48 * GIB, 1.0), (1 << 20, 0.01)])
def test_the_plan_is_the_limit_that_vllm_is_told(bytes_: int, share: float) -> None:
    spec = EngineSpec(model="m", engine="vllm", path="/m", devices=gpus(2, 24))

    assert memory_share(spec, Budget(bytes_, 0, 0, 0)) == share
