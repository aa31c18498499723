from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.engines.base import LoadError
from cortex.engines.gguf import GgufHeader, Skipped
from cortex.engines.llamacpp_memory import (
    Model,
    Shape,
    Weights,
    bytes_of,
    homes_of,
    layer_kv_bytes,
    main_of,
    shape_of,
    shapes_of,
    shares_of,
    step_of,
)
from cortex.engines.llamacpp_options import Adapter, Options
from cortex.wire.engine_api import Device

GIB, MIB = 1 << 30, 1 << 20
NOTHING = Options()
CPU = Device(0, "cpu", "cpu", 8 * GIB, 0, 16 * GIB)
LLAMA_8B: dict[str, Any] = {
    "block_count": 32,
    "context_length": 131072,
    "embedding_length": 4096,
    "feed_forward_length": 14336,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
}


def gpu(gib: float, index: int = 0) -> Device:
    return Device(index, "cuda", "gpu", int(gib * GIB), index, int(gib * GIB))


def header(**different: Any) -> GgufHeader:
    values = {f"llama.{key}": value for key, value in (LLAMA_8B | different).items()}
    layers = dict.fromkeys(range(int(values["llama.block_count"])), 128 * MIB)
    return GgufHeader(3, "llama", values | {"tokenizer.ggml.tokens": Skipped(128256)}, 291, 0, {}, layers)


def model(gib: float = 4.5, **different: Any) -> Model:
    return Model(Weights(header(**different), int(gib * GIB)))


def test_a_kv_cache_has_a_key_and_a_value_for_each_head_layer_and_token() -> None:
    one = sum(layer_kv_bytes(header(), "f16", Shape(1, 1024)))

    assert one == 32 * 8 * (128 + 128) * 2 * 1024
    assert sum(layer_kv_bytes(header(), "f16", Shape(3, 1024))) == 3 * one
    assert sum(layer_kv_bytes(header(), "q8_0", Shape(1, 1024))) == one * 34 // 64
    assert sum(layer_kv_bytes(header(), "q4_0", Shape(1, 1024))) == one * 18 // 64


def test_layers_without_attention_take_no_cache() -> None:
    mixed = header(block_count=2, **{"attention.head_count_kv": (8, 0)})

    assert layer_kv_bytes(mixed, "f16", Shape(1, 256)) == [8 * 256 * 2 * 256, 0]


def test_an_encoder_has_no_cache() -> None:
    assert layer_kv_bytes(GgufHeader(3, "bert", {"bert.block_count": 2}, 0, 0), "f16", Shape(4, 512)) == []


def test_a_context_takes_whole_steps_of_cells() -> None:
    assert layer_kv_bytes(header(), "f16", Shape(1, 1000)) == layer_kv_bytes(header(), "f16", Shape(1, 1024))


def test_what_is_beyond_any_model_is_refused() -> None:
    """It would not fit into a message, let alone into a machine."""
    for key in ("attention.key_length", "embedding_length"):
        with pytest.raises(LoadError, match="TiB"):
            bytes_of(model(**{key: 2**63}), Options(), Shape(1, 4096), (CPU,))
    with pytest.raises(LoadError, match="1000000000 layers"):
        _ = Weights(GgufHeader(3, "llama", {"llama.block_count": 10**9}, 0, 0), 5).layers


@pytest.mark.parametrize(
    ("options", "context", "shapes"),
    [
        (Options(), None, [(4, 8192), (3, 8192), (2, 8192), (1, 8192), (4, 4096), (3, 4096), (2, 4096), (1, 4096)]),
        (Options(), 16384, [(4, 16384), (3, 16384), (2, 16384), (1, 16384)]),
        (Options(slots=8), None, [(8, 8192), (8, 4096), (8, 2048)]),
        (Options(slots=8), 512, [(8, 512)]),
        (Options(slots=1), 1000, [(1, 1024)]),
        (Options(slots=1), 200_000, [(1, 131072)]),
    ],
)
def test_slots_go_before_context_and_neither_below_what_was_asked_for(
    options: Options, context: int | None, shapes: list[tuple[int, int]]
) -> None:
    tried = [(shape.slots, shape.context_tokens) for shape in shapes_of(header(), options, context)]

    assert tried[: len(shapes)] == shapes
    assert len(tried) == len(shapes) + (4 if options.slots is None and context is None else 0)


def test_a_short_context_is_not_made_longer_nor_shorter() -> None:
    assert {shape.context_tokens for shape in shapes_of(header(context_length=512), Options(), None)} == {512}


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        (24, (4, 8192)),
        (11, (4, 8192)),
        (10, (3, 8192)),
        (8.8, (2, 8192)),
        (7.5, (1, 8192)),
        (6.5, (1, 4096)),
        (4, (1, 2048)),
    ],
)
def test_a_smaller_card_has_fewer_slots_and_then_less_context(gib: float, expected: tuple[int, int]) -> None:
    """Llama 8B at Q4: 4.5 GiB, and 1 GiB of cache for 8192 tokens."""
    shape = shape_of(model(), Options(), None, (gpu(gib),))

    assert (shape.slots, shape.context_tokens) == expected


def test_what_is_free_now_changes_nothing() -> None:
    """The model is planned for the device; what has to leave it is decided elsewhere."""
    full = Device(0, "cuda", "gpu", 1, 0, 24 * GIB)

    assert shape_of(model(), Options(), None, (full,)) == Shape(4, 8192)


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        (Options(), (2 / 3, 1 / 3)),
        (Options(tensor_split=(1, 1)), (0.5, 0.5)),
        (Options(tensor_split=(0, 3)), (0, 1)),
        (Options(split="none", main_device=1), (0, 1)),
        (Options(split="none"), (1, 0)),
    ],
)
def test_devices_share_by_what_they_hold_unless_told_otherwise(options: Options, shares: tuple[float, ...]) -> None:
    assert shares_of(options, (gpu(24), gpu(12, 1))) == pytest.approx(shares)


def test_options_count_devices_by_index_in_whatever_order_they_were_chosen() -> None:
    """The roomiest is chosen first, and which one that is changes."""
    chosen = (gpu(24, 5), gpu(12, 2))

    assert shares_of(Options(tensor_split=(3, 1)), chosen) == (0.25, 0.75)
    assert shares_of(Options(split="none", main_device=0), chosen) == (0, 1)
    assert main_of(Options(main_device=1), chosen) == 0


def test_whole_layers_go_where_llama_cpp_puts_them() -> None:
    assert homes_of(5, (0.5, 0.5)) == [0, 0, 0, 1, 1]
    assert homes_of(4, (0.0, 1.0)) == [1, 1, 1, 1]
    assert homes_of(3, (1.0,)) == [0, 0, 0]


@pytest.mark.parametrize("split", ["layer", "row", "tensor"])
def test_a_split_spreads_the_same_bytes(split: Any) -> None:
    """What is on two devices is what is on one, but for the buffers that each needs of its own."""
    one = bytes_of(model(), Options(split=split), Shape(4, 8192), (gpu(48),))
    two = bytes_of(model(), Options(split=split), Shape(4, 8192), (gpu(24), gpu(12, 1)))

    assert sum(two) == pytest.approx(sum(one), rel=0.1)
    assert two[0] > 1.5 * two[1] > 0


def test_a_cpu_that_counts_as_several_devices_holds_it_all_between_them() -> None:
    halves = tuple(Device(at, "cpu", "cpu", 4 * GIB, 0, 8 * GIB) for at in range(2))
    (whole,) = bytes_of(model(), Options(), Shape(1, 2048), (CPU,))

    assert sum(bytes_of(model(), Options(), Shape(1, 2048), halves)) == pytest.approx(whole, abs=2)


def test_by_rows_the_cache_stays_on_the_main_device() -> None:
    cache = sum(layer_kv_bytes(header(), "f16", Shape(4, 8192)))
    first, second = bytes_of(
        model(), Options(split="row", main_device=1, tensor_split=(1, 1)), Shape(4, 8192), (gpu(24), gpu(24, 1))
    )

    assert second - first == cache


def test_a_device_without_a_share_takes_nothing() -> None:
    assert bytes_of(model(), Options(split="none"), Shape(1, 2048), (gpu(24), gpu(24, 1)))[1] == 0


def test_what_is_loaded_beside_counts() -> None:
    alone, shape = model(), Shape(2, 2048)
    sight = {"clip.vision.image_size": 336, "clip.vision.patch_size": 14, "clip.vision.embedding_length": 1024}
    tower = Weights(GgufHeader(3, "clip", {"clip.has_vision_encoder": True, **sight}, 0, 0), 600 * MIB)
    small = Weights(header(block_count=8), 500 * MIB)

    def more(beside: Model, options: Options = NOTHING) -> int:
        return bytes_of(beside, options, shape, (CPU,))[0] - bytes_of(alone, Options(), shape, (CPU,))[0]

    assert 600 * MIB < more(Model(alone.weights, projector=tower)) < 700 * MIB
    assert 500 * MIB < more(Model(alone.weights, draft=small)) < 750 * MIB
    assert more(Model(alone.weights, adapter_bytes=7 * MIB), Options(lora=(Adapter("/a.gguf"),))) == 7 * MIB
    assert more(alone, Options(cache_ram_mib=1064)) == 1000 * MIB
    assert more(alone, Options(flash_attention=False)) == 64 * 4 * 32 * 2048


def test_an_image_that_is_looked_at_at_once_fits_into_one_step() -> None:
    def step(kind: str, options: Options = NOTHING) -> int:
        tower = Weights(GgufHeader(3, "clip", {"clip.has_vision_encoder": True, "clip.projector_type": kind}, 0, 0), 1)
        return step_of(Model(model().weights, projector=tower), options, Shape(1, 4096), (CPU,))

    assert (step("mlp"), step("gemma3"), step("gemma3", Options(batch=1024))) == (64, 512, 1024)
    assert step_of(model(), Options(), Shape(1, 4096), (gpu(24),)) == 2048


@given(st.lists(st.integers(1, 80), min_size=1, max_size=6), st.integers(1, 8), st.integers(256, 100_000))
def test_every_layer_has_one_home_and_shares_add_up(gib: list[int], slots: int, context: int) -> None:
    devices = tuple(gpu(size, at) for at, size in enumerate(gib))
    taken = bytes_of(model(), Options(), Shape(slots, context), devices)

    assert sum(shares_of(Options(), devices)) == pytest.approx(1.0)
    assert homes_of(33, shares_of(Options(), devices)) == sorted(homes_of(33, shares_of(Options(), devices)))
    assert sum(taken) > int(4.5 * GIB) + sum(layer_kv_bytes(header(), "f16", Shape(slots, context)))
