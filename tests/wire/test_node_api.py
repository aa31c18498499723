from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cortex.wire.node_api import (
    Activation,
    DeviceHealth,
    DeviceInfo,
    Discovery,
    EstimateAnswer,
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
HOLDER = ModelInfo(
    id="n",
    engine="simulated",
    status="ready",
    devices=[0, 1],
    bytes_by_device={0: 5, 1: 6},
    peak_by_device={0: 7, 1: 8},
    reserved_by_device={},
    is_reserved=True,
    idle_seconds=1.5,
    loaded_seconds_ago=2.5,
    requests=4,
)
MESSAGES: list[msgspec.Struct] = [
    Discovery(
        hostname="box", os="Linux", kernel="6", boot_id="b", version="0", devices=[DEVICE], engines=["simulated"]
    ),
    Health(
        status="pre_warming",
        boot_id="b",
        uptime_secs=1.5,
        readings_age_seconds=0.1,
        devices=[DeviceHealth(index=0, memory_used_bytes=1, memory_free_bytes=2, memory_reserved_bytes=1)],
        activation=Activation(state="pre_warming", pending=["m"], failed=[FailedModel("x", "no such file")]),
        models=[MODEL, HOLDER],
        cycles=3,
    ),
    EstimateAnswer(model_id="m", devices=[0, 1], bytes_per_device={0: 5, 1: 6}, basis="measured", fits=True),
    EstimateAnswer(model_id="m", basis="declared", fits=False, missing="device 0: 4 MB"),
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


def test_an_older_nodes_health_reads_with_what_it_does_not_tell_left_empty() -> None:
    old = {
        "status": "ready",
        "boot_id": "b",
        "uptime_secs": 1.0,
        "readings_age_seconds": 0.1,
        "devices": [{"index": 0, "memory_used_bytes": 1, "memory_free_bytes": 2}],
        "activation": {"state": "ready"},
        "models": [{"id": "m", "engine": "simulated", "status": "ready"}],
    }

    health = msgspec.convert(old, Health)

    model = health.models[0]
    assert (health.cycles, health.devices[0].memory_reserved_bytes) == (0, 0)
    assert (model.bytes_by_device, model.reserved_by_device, model.is_reserved) == ({}, {}, False)
    assert (model.idle_seconds, model.loaded_seconds_ago, model.requests) == (None, None, 0)


def test_a_device_index_reads_back_as_a_number() -> None:
    raw = msgspec.json.encode(HOLDER)

    assert b'"bytes_by_device":{"0":5,"1":6}' in raw
    assert msgspec.json.decode(raw, type=ModelInfo).bytes_by_device == {0: 5, 1: 6}
