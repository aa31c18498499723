"""What a spec may set for the vllm engine, and over how many processes that splits its model. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from cortex.engines.base import LoadError, check_options
from cortex.engines.transformers.folder import Folder
from cortex.wire.engine_api import Device, EngineSpec

DType = Literal["auto", "bfloat16", "float16", "float32"]
CacheDType = Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"]
Backend = Literal["mp", "ray"]

DEFAULT_CONTEXT_TOKENS = 8192
GPU_SLOTS, CPU_SLOTS = 32, 4
# A step is what an abort waits for, and how long a prefill may keep others from their next token.
GPU_BATCH_TOKENS, CPU_BATCH_TOKENS = 2048, 512
MAX_SLOTS, MAX_RANKS = 1024, 1024


class Options(msgspec.Struct, frozen=True):
    """The engine's own options.

    `hosts` machines with as many devices each as the spec names share the model, by way of Ray at `ray_address`.
    `ranks` is how many processes split it on one host without GPUs. `kv_tokens` is how many tokens the cache holds.
    """

    slots: int | None = None
    batch: int | None = None
    kv_tokens: int | None = None
    kv_cache_dtype: CacheDType = "auto"
    dtype: DType = "auto"
    ranks: int | None = None
    pipeline_parallel: int | None = None
    hosts: int = 1
    distributed_executor_backend: Backend | None = None
    ray_address: str | None = None
    eager: bool | None = None
    prefix_cache: bool = True
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    embeddings: bool | None = None
    matryoshka: bool = False
    step_seconds: float = 120.0


_KNOWN: dict[str, type | tuple[type, ...]] = {
    "slots": int,
    "batch": int,
    "kv_tokens": int,
    "kv_cache_dtype": str,
    "dtype": str,
    "ranks": int,
    "pipeline_parallel": int,
    "hosts": int,
    "distributed_executor_backend": str,
    "ray_address": str,
    "eager": bool,
    "prefix_cache": bool,
    "tool_parser": str,
    "reasoning_parser": str,
    "embeddings": bool,
    "matryoshka": bool,
    "step_seconds": (int, float),
}
_RANGES = {
    "slots": (1, MAX_SLOTS),
    "batch": (16, 1 << 20),
    "kv_tokens": (16, 1 << 31),
    "ranks": (1, MAX_RANKS),
    "pipeline_parallel": (1, MAX_RANKS),
    "hosts": (1, MAX_RANKS),
    "step_seconds": (1, 86400),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": get_args(DType),
    "kv_cache_dtype": get_args(CacheDType),
    "distributed_executor_backend": get_args(Backend),
}


def read_options(spec: EngineSpec) -> Options:
    """Return the options of *spec*. Raises LoadError naming the one that is wrong."""
    check_options(spec, _KNOWN)
    given: dict[str, Any] = spec.options
    for name, (low, high) in _RANGES.items():
        if name in given and not low <= given[name] <= high:
            raise LoadError(f"options.{name} = {given[name]}: expected {low} to {high}")
    for name, choices in _CHOICES.items():
        if name in given and given[name] not in choices:
            raise LoadError(f"options.{name} = {given[name]!r}: expected one of {', '.join(choices)}")
    options = Options(**given)
    if options.hosts > 1 and options.distributed_executor_backend != "ray":
        raise LoadError(
            f"options.hosts = {options.hosts}: several hosts are joined by Ray: set distributed_executor_backend = "
            '"ray", and ray_address to the cluster that `ray start` formed on them'
        )
    if options.ray_address is not None and options.distributed_executor_backend != "ray":
        raise LoadError('options.ray_address goes with distributed_executor_backend = "ray"')
    return options


def is_gpu(device: Device) -> bool:
    """Whether *device* is one that torch calls `cuda`, which it calls AMD's too."""
    return device.kind in ("cuda", "rocm")


def on_gpu(spec: EngineSpec) -> bool:
    """Whether *spec* is loaded on GPUs."""
    return any(map(is_gpu, spec.devices))


def slots_of(spec: EngineSpec, options: Options) -> int:
    """Return how many sequences decode at once."""
    return options.slots or (GPU_SLOTS if on_gpu(spec) else CPU_SLOTS)


def batch_of(spec: EngineSpec, options: Options) -> int:
    """Return how many tokens one step computes at most; each running sequence has room for its next one."""
    wanted = options.batch or (GPU_BATCH_TOKENS if on_gpu(spec) else CPU_BATCH_TOKENS)
    return max(wanted, 2 * slots_of(spec, options))


def is_eager(spec: EngineSpec, options: Options) -> bool:
    """Whether nothing is compiled or captured: on a CPU it takes longer than it gains."""
    return not on_gpu(spec) if options.eager is None else options.eager


def context_of(spec: EngineSpec, folder: Folder) -> int:
    """Return the tokens that one request may have: asked for, or what the model was trained on, within reason."""
    return spec.context or min(folder.context_length or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)


@dataclass(frozen=True, slots=True)
class Split:
    """Each layer over *tensor* ranks, the layers over *pipeline* stages, on *hosts* machines."""

    tensor: int = 1
    pipeline: int = 1
    hosts: int = 1

    @property
    def ranks(self) -> int:
        """All processes that hold a part of the model."""
        return self.tensor * self.pipeline

    @property
    def local_ranks(self) -> int:
        """Those of them on this host."""
        return self.ranks // self.hosts


def split_of(spec: EngineSpec, options: Options, folder: Folder) -> Split:
    """Return how the model of *folder* is dealt out; over several hosts a stage each unless told otherwise.

    Raises LoadError if GPUs, hosts, stages and heads do not go together.
    """
    local = _local_ranks(spec, options)
    ranks, stages = local * options.hosts, options.pipeline_parallel or options.hosts
    if ranks % stages:
        raise LoadError(f"options.pipeline_parallel = {stages} does not divide the {ranks} devices there are in all")
    split = Split(ranks // stages, stages, options.hosts)
    _check_heads(folder, split)
    layers = folder.config.get("num_hidden_layers")
    if isinstance(layers, int) and layers < stages:
        raise LoadError(f"options.pipeline_parallel = {stages}: the model has {layers} layers")
    return split


def _local_ranks(spec: EngineSpec, options: Options) -> int:
    gpus = sum(map(is_gpu, spec.devices))
    if options.ranks is None:
        return max(1, gpus or len(spec.devices))
    if gpus and gpus != options.ranks:
        raise LoadError(f"options.ranks = {options.ranks} on {gpus} GPUs: each rank has a GPU of its own, leave it out")
    return options.ranks


def _check_heads(folder: Folder, split: Split) -> None:
    heads = folder.config.get("num_attention_heads")
    if not isinstance(heads, int) or split.tensor == 1:
        return
    shared = folder.config.get("num_key_value_heads")
    kv_heads = shared if isinstance(shared, int) and shared > 0 else heads

    def fits(ranks: int) -> bool:
        return heads % ranks == 0 and (kv_heads % ranks == 0 or ranks % kv_heads == 0)

    if not fits(split.tensor):
        fitting = ", ".join(str(ranks) for ranks in range(1, heads + 1) if fits(ranks))
        raise LoadError(
            f"{heads} heads and {kv_heads} key-value heads cannot be split over {split.tensor} devices: this model "
            f"takes {fitting}; more devices can share its layers (options.pipeline_parallel)"
        )
