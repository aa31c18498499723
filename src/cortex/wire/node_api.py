"""The HTTP API of a node: the shapes that `neuron` serves and `cortex` reads. Paths and keys are the original's.

Unknown keys are ignored when reading, so that a gateway and a neuron of different versions understand each other.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

ReplicaState = Literal["loading", "ready", "draining", "failed", "unloaded"]
ActivationState = Literal["pre_warming", "ready", "draining"]
EstimateBasis = Literal["measured", "estimate", "declared", "unknown"]


class DeviceInfo(msgspec.Struct, kw_only=True):
    """A device of the node, as `/discovery` lists it: what does not change while the node runs."""

    index: int
    name: str
    kind: str
    memory_total_bytes: int
    vram_total_mb: int = 0
    uuid: str | None = None
    driver: str | None = None
    compute_capability: str | None = None
    ordinal: int = 0


class Discovery(msgspec.Struct, kw_only=True):
    """`GET /discovery`."""

    hostname: str
    os: str
    kernel: str
    boot_id: str
    version: str
    devices: list[DeviceInfo]
    engines: list[str]
    engine_devices: dict[str, list[str]] = {}
    engine_versions: dict[str, str] = {}
    driver_version: str | None = None
    cuda_version: str | None = None
    harnesses: list[str] = []
    warnings: list[str] = []


class DeviceHealth(msgspec.Struct, kw_only=True):
    """The last reading of a device; None where the device does not tell.

    `memory_reserved_bytes` is what loads in progress on it have set aside and not taken yet; free memory still has it.
    """

    index: int
    memory_used_bytes: int
    memory_free_bytes: int
    vram_used_mb: int = 0
    vram_free_mb: int = 0
    memory_reserved_bytes: int = 0
    utilization_pct: float | None = None
    temp_c: float | None = None


class FailedModel(msgspec.Struct):
    """A model that did not come up, and why."""

    model_id: str
    error: str


class Activation(msgspec.Struct, kw_only=True):
    """How far the preload of `default_models` is."""

    state: ActivationState
    pending: list[str] = []
    in_progress: str | None = None
    completed: list[str] = []
    failed: list[FailedModel] = []


class LoadProgress(msgspec.Struct):
    """How far a load is: *percent* of *stage*, None when it cannot be told."""

    stage: str
    percent: float | None = None


class ModelInfo(msgspec.Struct, kw_only=True):
    """A model on the node, as `/models` lists it. Bytes are by device index.

    - `bytes_by_device`: what it holds now: measured for its process, else declared, else what its load set aside.
    - `reserved_by_device`: what its load has set aside and not taken yet; empty before it has, and once it is loaded.
    - `is_reserved`: its load has set its bytes aside: from then on its devices and its need are settled.
    - `peak_by_device`: the most it has held.
    - `estimated_by_device`: what its load was let in with, and `estimate_basis` where that came from.
    - `estimate_error_ratio`: what its load was let in with over the most it has held, less 1: 0.1 is a tenth too much;
      None until it is ready and measured on each of its devices.
    - `last_words`: the last lines that its engine printed, while it is restarting or has failed.
    - `load_seconds`, `unload_seconds`: what its last load, and the last unload of this model on this node, took.
    - `idle_seconds`: since the last request ended, or since it became ready; None while busy or not ready.
    - `loaded_seconds_ago`: since it became ready; None before.
    - `requests`: how many it has served.
    """

    id: str
    engine: str
    status: ReplicaState
    harness: str = ""
    engine_version: str = ""
    source: str = ""
    devices: list[int] = []
    context_tokens: int | None = None
    slots: int = 0
    in_flight: int = 0
    queued: int = 0
    capabilities: list[str] = []
    memory_bytes: int | None = None
    vram_used_mb: int | None = None
    pid: int | None = None
    simulated: bool = False
    progress: LoadProgress | None = None
    error: str | None = None
    restarts: int = 0
    load_seconds: float | None = None
    unload_seconds: float | None = None
    loaded_seconds_ago: float | None = None
    idle_seconds: float | None = None
    requests: int = 0
    bytes_by_device: dict[int, int] = {}
    peak_by_device: dict[int, int] = {}
    reserved_by_device: dict[int, int] = {}
    is_reserved: bool = False
    estimated_by_device: dict[int, int] = {}
    estimate_basis: EstimateBasis = "unknown"
    estimate_error_ratio: float | None = None
    last_words: list[str] = []
    notes: list[str] = []


def estimate_error(model: ModelInfo) -> float | None:
    """Return estimated over measured, less 1; None until *model* is ready and measured on all that was estimated."""
    peak = sum(model.peak_by_device.get(index, 0) for index in model.estimated_by_device)
    if model.status != "ready" or not peak or model.estimated_by_device.keys() - model.peak_by_device.keys():
        return None
    return sum(model.estimated_by_device.values()) / peak - 1


class Health(msgspec.Struct, kw_only=True):
    """`GET /health`. `cycles` counts the unloads completed since the start."""

    status: str
    boot_id: str
    uptime_secs: float
    readings_age_seconds: float
    devices: list[DeviceHealth]
    activation: Activation
    models: list[ModelInfo]
    cycles: int = 0


class LoadRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`POST /models/load`: a model spec; `model_id`, `harness` and a device list are the original's spelling."""

    id: str | None = None
    model_id: str | None = None
    source: str | None = None
    engine: str | None = None
    harness: str | None = None
    quant: str | None = None
    context: int | None = None
    tensor_parallel: int | None = None
    devices: int | list[int] | Literal["auto"] = "auto"
    min_device_vram_mb: int | None = None
    vram_mb: int | None = None
    options: dict[str, Any] = {}


class LoadStage(msgspec.Struct):
    """A part of a load, and how long it took."""

    stage: str
    seconds: float


class LoadAnswer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The answer of `POST /models/load` once it serves: the stages in their order; fields in which it `differs`."""

    status: str
    model_id: str
    stages: list[LoadStage] = []
    differs: list[str] = []


class EstimateAnswer(msgspec.Struct, kw_only=True):
    """The answer of `POST /models/estimate`, whose body is a `LoadRequest`: what that load would take, and of what.

    `devices` are the ones it would choose now, or those it names; none where none qualifies. `fits` tells whether the
    bytes are free there now, None where they are not known; `missing` says in words what is not free. `error` says why
    there are no devices, or why the engine itself made no estimate.
    """

    model_id: str
    devices: list[int] = []
    bytes_per_device: dict[int, int] = {}
    basis: EstimateBasis = "unknown"
    fits: bool | None = None
    missing: str | None = None
    error: str | None = None


class UnloadRequest(msgspec.Struct, kw_only=True):
    """`POST /models/unload`."""

    model_id: str | None = None
    id: str | None = None


class Version(msgspec.Struct, kw_only=True):
    """`GET /version`: `unix_seconds` by the node's clock, and what is free where it keeps model files."""

    package_version: str
    python: str
    platform: str
    engines: list[str]
    unix_seconds: float | None = None
    cache_free_bytes: int | None = None
