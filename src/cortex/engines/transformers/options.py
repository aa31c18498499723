"""What a spec may set for the transformers engine, and what follows for ranks, slots and threads."""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

import msgspec

from cortex.engines.base import LoadError, check_options
from cortex.wire.engine_api import Device, EngineSpec

DType = Literal["auto", "bfloat16", "float16", "float32"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"]

DEFAULT_SLOTS, DEFAULT_CONTEXT_TOKENS = 4, 8192
# A step is what an abort waits for, and how long a prefill may keep others from their next token.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 128, 512
MAX_SLOTS, MAX_RANKS = 256, 64


class Options(msgspec.Struct, frozen=True):
    """The engine's own options. `ranks` is how many processes split the model, one a device unless it is set."""

    slots: int = DEFAULT_SLOTS
    batch: int | None = None
    threads: int | None = None
    ranks: int | None = None
    dtype: DType = "auto"
    attention: Attention = "sdpa"
    prefix_cache: bool = True
    embeddings: bool | None = None
    matryoshka: bool = False
    step_seconds: float = 120.0


_KNOWN: dict[str, type | tuple[type, ...]] = {
    "slots": int,
    "batch": int,
    "threads": int,
    "ranks": int,
    "dtype": str,
    "attention": str,
    "prefix_cache": bool,
    "embeddings": bool,
    "matryoshka": bool,
    "step_seconds": (int, float),
}
_RANGES = {"slots": (1, MAX_SLOTS), "batch": (4, 65536), "threads": (1, 1024), "ranks": (1, MAX_RANKS)}
_CHOICES: dict[str, tuple[str, ...]] = {"dtype": get_args(DType), "attention": get_args(Attention)}


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
    if not 1 <= given.get("step_seconds", 1) <= 86400:
        raise LoadError(f"options.step_seconds = {given['step_seconds']}: expected 1 to 86400")
    return Options(**given)


def is_gpu(device: Device) -> bool:
    """Whether *device* is one that torch calls `cuda`, which it calls AMD's too."""
    return device.kind in ("cuda", "rocm")


def ranks_of(spec: EngineSpec, options: Options) -> int:
    """Return how many processes split the model. Raises LoadError if GPUs and ranks do not go together."""
    gpus = sum(map(is_gpu, spec.devices))
    if options.ranks is None:
        return max(1, len(spec.devices))
    if gpus and gpus != options.ranks:
        raise LoadError(f"options.ranks = {options.ranks} on {gpus} GPUs: each rank has a GPU of its own, leave it out")
    return options.ranks


def batch_of(spec: EngineSpec, options: Options) -> int:
    """Return how many tokens one step computes at most; each running sequence has room for its next one."""
    wanted = options.batch or (GPU_BATCH_TOKENS if any(map(is_gpu, spec.devices)) else CPU_BATCH_TOKENS)
    return max(wanted, 2 * options.slots)


def threads_of(options: Options, ranks: int) -> int:
    """Return the threads that each rank computes with: one core stays free for the loops that serve."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return options.threads or max(1, (cores - 1) // ranks)
