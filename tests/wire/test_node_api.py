from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cortex.wire.node_api import (
    Activation,
    DeviceHealth,
    DeviceInfo,
    Discovery,
    FailedModel,
    Health,
    LoadProgress,
    LoadRequest,
    ModelInfo,
    UnloadRequest,
    Version,
)

DEVICE = DeviceInfo(
    index=0, name="RTX 4090", kind="cuda", memory_total_bytes=24 << 30, vram_total_mb=24576, driver="550"
)
MODEL = ModelInfo(id="m", engine="simulated", status="loading", progress=LoadProgress("reading", 12.5), devices=[0])
MESSAGES: list[msgspec.Struct] = [
    Discovery(
        hostname="box", os="Linux", kernel="6", boot_id="b", version="0", devices=[DEVICE], engines=["simulated"]
    ),
    Health(
        status="pre_warming",
        boot_id="b",
        uptime_secs=1.5,
        readings_age_seconds=0.1,
        devices=[DeviceHealth(index=0, memory_used_bytes=1, memory_free_bytes=2)],
        activation=Activation(state="pre_warming", pending=["m"], failed=[FailedModel("x", "no such file")]),
        models=[MODEL],
    ),
    LoadRequest(id="m", devices=[0, 1], options={"slots": 2}),
    LoadRequest(model_id="m", harness="llamacpp", devices="auto", tensor_parallel=2),
    UnloadRequest(model_id="m"),
    Version(package_version="0", python="3.11", platform="Linux", engines=[]),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_reads_back(message: msgspec.Struct) -> None:
    assert msgspec.json.decode(msgspec.json.encode(message), type=type(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_key_of_a_newer_version_is_passed_over(message: msgspec.Struct) -> None:
    newer = {**msgspec.to_builtins(message), "added_later": {"x": [1]}}

    assert msgspec.convert(newer, type(message)) == message


@pytest.mark.parametrize(
    ("body", "devices"),
    [({}, "auto"), ({"devices": "auto"}, "auto"), ({"devices": 2}, 2), ({"devices": [1, 0]}, [1, 0])],
)
def test_devices_are_a_number_a_list_or_auto(body: dict[str, Any], devices: Any) -> None:
    assert msgspec.convert(body, LoadRequest).devices == devices


@pytest.mark.parametrize(
    "body", [{"devices": "all"}, {"devices": 1.5}, {"devices": ["0"]}, {"context": "4k"}, {"options": []}, {"id": 5}]
)
def test_a_load_of_the_wrong_shape_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, LoadRequest)


def test_a_state_that_nobody_knows_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="status"):
        msgspec.convert({"id": "m", "engine": "e", "status": "sleepy"}, ModelInfo)
