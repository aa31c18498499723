"""What a load will take, from the headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cortex.engines.transformers.estimate import CPU_PROCESS_BYTES, GPU_CONTEXT_BYTES, context_of, estimate
from cortex.engines.transformers.folder import Folder
from cortex.engines.transformers.options import read_options
from cortex.wire.engine_api import Device, EngineSpec

CPU = Device(0, "cpu", "cpu", 8 << 30)
GPUS = tuple(Device(index, "cuda", "gpu", 8 << 30) for index in (0, 1))
MODEL = Folder(
    path=Path("/m"),
    config={
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "num_hidden_layers": 10,
        "vocab_size": 1000,
        "dtype": "bfloat16",
        "max_position_embeddings": 4096,
    },
    architecture="LlamaForCausalLM",
    generation={},
    tensors={"model.embed_tokens.weight": ("BF16", 200 << 20), "model.layers.0.w": ("BF16", 800 << 20)},
)


def bytes_of(devices: tuple[Device, ...], context: int = 1024, **options: Any) -> dict[int, int]:
    spec = EngineSpec(model="m", engine="transformers", path="/m", devices=devices, context=context, options=options)
    return estimate(spec, MODEL, read_options(spec), context)


def test_weights_and_cache_are_most_of_it() -> None:
    cache = 2 * 10 * 4 * 64 * 2 * 1024 * 4

    assert bytes_of((CPU,))[0] == pytest.approx((1000 << 20) + cache + CPU_PROCESS_BYTES, rel=0.05)


def test_two_devices_take_half_the_layers_each() -> None:
    two = bytes_of(GPUS)

    assert two[0] == two[1]
    assert two[0] == pytest.approx((600 << 20) + (20 << 20) + GPU_CONTEXT_BYTES, rel=0.05)


def test_devices_that_the_heads_cannot_be_dealt_out_to_are_no_help() -> None:
    three = tuple(Device(index, "cuda", "gpu", 8 << 30) for index in range(3))

    assert bytes_of(three)[0] == bytes_of(GPUS)[0]


def test_ranks_on_one_cpu_add_up_there() -> None:
    assert bytes_of((CPU,), ranks=2)[0] == pytest.approx(bytes_of((CPU, CPU))[0])
    assert bytes_of((CPU,), ranks=2)[0] > bytes_of((CPU,))[0] + CPU_PROCESS_BYTES


def test_more_context_takes_more() -> None:
    assert bytes_of((CPU,), context=8192)[0] > bytes_of((CPU,), context=1024)[0]


def test_the_context_is_what_is_asked_for_or_what_the_model_knows() -> None:
    asked = EngineSpec(model="m", engine="transformers", path="/m", devices=(CPU,), context=99)
    free = EngineSpec(model="m", engine="transformers", path="/m", devices=(CPU,))

    assert [context_of(asked, MODEL, 8192), context_of(free, MODEL, 8192), context_of(free, MODEL, 100)] == [
        99,
        4096,
        100,
    ]
