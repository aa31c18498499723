"""What a spec may set for vLLM, and over how many processes that splits its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cortex.engines.base import LoadError
from cortex.engines.transformers.folder import Folder
from cortex.engines.vllm.options import Split, batch_of, context_of, read_options, slots_of, split_of
from cortex.wire.engine_api import Device, EngineSpec

CPU = Device(0, "cpu", "cpu", 8 << 30)
RAY = {"distributed_executor_backend": "ray", "ray_address": "10.0.0.1:6379"}


def gpus(count: int) -> tuple[Device, ...]:
    return tuple(Device(index, "cuda", "gpu", 24 << 30) for index in range(count))


def spec(devices: tuple[Device, ...] = (CPU,), context: int | None = None, **options: Any) -> EngineSpec:
    return EngineSpec(model="m", engine="vllm", path="/m", devices=devices, context=context, options=options)


def folder(heads: int = 32, kv_heads: int = 8, layers: int = 32, trained: int | None = 131072) -> Folder:
    config = {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers,
        "max_position_embeddings": trained,
    }
    return Folder(path=Path("/m"), config=config, architecture="LlamaForCausalLM", generation={}, tensors={})


def split(devices: tuple[Device, ...], model: Folder | None = None, **options: Any) -> Split:
    asked = spec(devices, **options)
    return split_of(asked, read_options(asked), model or folder())


def test_each_device_holds_a_part_of_every_layer() -> None:
    assert [split((CPU,)), split(gpus(2)), split(gpus(8))] == [Split(1), Split(2), Split(8)]


def test_devices_can_share_the_layers_instead() -> None:
    assert split(gpus(4), pipeline_parallel=2) == Split(tensor=2, pipeline=2)
    assert split(gpus(4), pipeline_parallel=4) == Split(tensor=1, pipeline=4)


def test_over_hosts_each_has_a_stage_unless_told_otherwise() -> None:
    assert split(gpus(4), hosts=2, **RAY) == Split(tensor=4, pipeline=2, hosts=2)
    assert split(gpus(4), hosts=2, pipeline_parallel=1, **RAY) == Split(tensor=8, pipeline=1, hosts=2)
    assert split(gpus(4), hosts=2, **RAY).local_ranks == 4


def test_a_cpu_takes_as_many_ranks_as_are_asked_for() -> None:
    assert split((CPU,), ranks=2) == Split(2)


def test_more_ranks_than_key_value_heads_repeat_them() -> None:
    assert split(gpus(8), folder(kv_heads=4)) == Split(8)


@pytest.mark.parametrize(
    ("devices", "options", "words"),
    [
        (gpus(3), {}, "cannot be split over 3 devices: this model takes 1, 2, 4, 8, 16, 32"),
        (gpus(4), {"pipeline_parallel": 3}, "does not divide the 4 devices"),
        (gpus(2), {"ranks": 3}, "each rank has a GPU of its own"),
        (gpus(2), {"hosts": 2}, "joined by Ray"),
        (gpus(2), {"ray_address": "auto"}, "goes with distributed_executor_backend"),
        (gpus(2), {"distributed_executor_backend": "mpi"}, "expected one of mp, ray"),
        (gpus(64), {"pipeline_parallel": 64}, "the model has 32 layers"),
        ((CPU,), {"slots": 0}, "expected 1 to 1024"),
        ((CPU,), {"kv_cache_dtype": "int1"}, "expected one of auto, fp8"),
        ((CPU,), {"warp": 9}, r"options\.warp is not an option"),
        ((CPU,), {"eager": 1}, "expected bool"),
    ],
)
def test_what_does_not_go_together_is_named(devices: tuple[Device, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadError, match=words):
        split(devices, **options)


def test_a_context_is_the_one_asked_for_or_what_was_trained_within_reason() -> None:
    assert context_of(spec(context=40000), folder()) == 40000
    assert context_of(spec(), folder()) == 8192
    assert context_of(spec(), folder(trained=2048)) == 2048


def test_a_gpu_serves_more_at_once_than_a_cpu_and_every_slot_has_room_in_a_step() -> None:
    many = spec(gpus(1), slots=2000 // 2)

    assert slots_of(spec(gpus(1)), read_options(spec())) > slots_of(spec(), read_options(spec()))
    assert batch_of(spec(slots=400), read_options(spec(slots=400))) == 800
    assert batch_of(many, read_options(many)) == 2048
