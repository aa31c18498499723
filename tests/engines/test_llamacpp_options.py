from __future__ import annotations

from typing import Any

import pytest

from cortex.engines.base import LoadError
from cortex.engines.llamacpp_options import Adapter, Options, options_of
from cortex.wire.engine_api import Device, EngineSpec


def spec(devices: int = 1, **options: Any) -> EngineSpec:
    gpus = tuple(Device(at, "cuda", "gpu", 1 << 30) for at in range(devices))
    return EngineSpec(model="m", engine="llamacpp", path="/m.gguf", devices=gpus, options=options)


def test_nothing_said_is_the_default() -> None:
    assert options_of(spec()) == Options()


def test_options_are_read_as_a_catalogue_writes_them() -> None:
    options = options_of(
        spec(
            2, tensor_split=[3, 1.5], lora=["/a.gguf", {"source": "hf:o/r", "scale": 0.5}], kv_type="q8_0", mmproj=False
        )
    )

    assert options.tensor_split == (3.0, 1.5)
    assert options.adapters == (Adapter("/a.gguf", 1.0), Adapter("hf:o/r", 0.5))
    assert (options.kv_type, options.mmproj) == ("q8_0", False)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"slts": 2}, r"options\.slts is not an option of engine 'llamacpp'; known: .*slots"),
        ({"slots": 0}, r"options\.slots = 0: expected `int` >= 1"),
        ({"slots": "two"}, r"options\.slots = 'two': expected `int \| null`, got `str`"),
        ({"slots": True}, r"options\.slots = True: expected"),
        ({"kv_type": "q2_k"}, r"options\.kv_type = 'q2_k': invalid enum value"),
        ({"lora": [{"path": "/a"}]}, r"options\.lora\[0\] = .*: "),
        ({"tensor_split": [1, 2]}, r"2 shares, for 1 device"),
        ({"tensor_split": [0]}, r"gives no device anything"),
        ({"main_device": 1}, r"main_device = 1: the model goes on 1 device"),
        ({"kv_type": "q8_0", "flash_attention": False}, r"needs flash attention"),
        ({"draft_tokens": 4}, r"for a draft model"),
    ],
)
def test_what_is_wrong_is_refused_by_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(LoadError, match=says):
        options_of(spec(**options))
