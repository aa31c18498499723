"""From a spec and its file's header to llama.cpp's parameters: what a model is loaded for, how, and where."""

from __future__ import annotations

import os
from enum import Enum
from typing import Any

import xllamacpp

from cortex.engines.base import LoadError
from cortex.engines.gguf import GgufHeader
from cortex.engines.vocabulary import CONTEXT_TOKENS
from cortex.wire.engine_api import Device, EngineSpec

OPTIONS: dict[str, type | tuple[type, ...]] = {
    "slots": int,
    "threads": int,
    "batch": int,
    "embeddings": bool,
    "matryoshka": bool,
}
DEFAULT_SLOTS = 4
DEFAULT_CONTEXT_TOKENS = 8192
# A prefill step is what an abort waits for. On a CPU larger batches gain nothing (measured: 134 tok/s at 128 and 2048).
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 128, 2048
ALL_LAYERS = 999


class Use(Enum):
    """What a model is loaded for: llama.cpp does one of these at a time."""

    GENERATION = "text generation"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"


def use_of(spec: EngineSpec, header: GgufHeader) -> Use:
    """Return what the file was made for, unless the spec wants embeddings of it."""
    if header.pooling_type == xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK.value:
        return Use.RERANK
    embeds = spec.options.get("embeddings", header.is_embedding_model)
    return Use.EMBEDDINGS if embeds else Use.GENERATION


def slots_of(spec: EngineSpec) -> int:
    """Return how many sequences decode at once. Raises LoadError."""
    slots: int = spec.options.get("slots", DEFAULT_SLOTS)
    if not 1 <= slots <= 256:
        raise LoadError(f"options.slots = {slots}: expected 1 to 256")
    return slots


def context_of(spec: EngineSpec, header: GgufHeader) -> int:
    """Return the tokens that one request may have: asked for, or what the model was trained on, within reason."""
    return spec.context or min(header.context_length or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)


def notes_of(spec: EngineSpec, header: GgufHeader) -> list[str]:
    """Return what is worth knowing of the context that the model is loaded with."""
    trained, context = header.context_length, context_of(spec, header)
    if trained and context > trained:
        return [f"context {context} is beyond the {trained} tokens that the model was trained on"]
    if trained and spec.context is None and context < trained:
        return [f"context {context} of the {trained} that the model was trained on: set context for more"]
    return []


def default_threads() -> int:
    """Return the threads to compute with: one core stays free, since one busy neighbour costs most of the speed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, cores - 1)


def params_of(spec: EngineSpec, header: GgufHeader, api_key: str) -> Any:
    """Return the parameters of a server that answers on loopback to *api_key* only. Raises LoadError."""
    context, slots = context_of(spec, header), slots_of(spec)
    on_gpu = any(device.kind not in ("cpu", "simulated") for device in spec.devices)
    params = _common(spec, api_key)
    params.model.path = spec.path
    params.n_parallel = slots
    params.n_ctx = context * slots
    params.n_batch = spec.options.get("batch", GPU_BATCH_TOKENS if on_gpu else CPU_BATCH_TOKENS)
    params.n_ubatch = min(params.n_batch, 512)
    if not on_gpu:
        # Mapped weights count as free memory to the system, and two models would be judged to fit into the same bytes.
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    use = use_of(spec, header)
    params.embedding = use is not Use.GENERATION
    if params.embedding:
        params.n_batch = params.n_ubatch = context  # an embedding is computed in one step
        params.pooling_type = _pooling(use, header, params.pooling_type)
    _place(params, spec.devices, on_gpu)
    return params


def vocabulary_params(spec: EngineSpec, _: GgufHeader, api_key: str) -> Any:
    """Return the parameters of a server that only counts tokens, but for the file, which is still to be written."""
    params = _common(spec, api_key)
    params.n_parallel, params.n_ctx = 1, CONTEXT_TOKENS
    params.n_batch = params.n_ubatch = CONTEXT_TOKENS
    params.n_gpu_layers = 0
    params.warmup = False
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    return params


def _common(spec: EngineSpec, api_key: str) -> Any:
    params = xllamacpp.CommonParams()
    params.model_alias = {spec.model}
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = spec.options.get("threads", default_threads())
    params.cache_ram_mib = 0
    params.fit_params = False  # what fits is decided before a load, and said; never trimmed behind the spec's back
    params.ctx_shift = False
    params.use_jinja = True
    params.api_keys = [api_key]
    params.ui = False
    params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.n_threads_http = 2
    params.verbosity = 0
    return params


def _pooling(use: Use, header: GgufHeader, own: Any) -> Any:
    """Return how the embeddings of tokens become one, which a server that ranks must be told."""
    if use is Use.RERANK:
        return xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    return xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN if header.pooling_type is None else own


def device_kinds() -> tuple[str, ...]:
    """Return the kinds of devices that this build of llama.cpp computes on; Vulkan drives the GPUs of either maker."""
    names = [str(device["name"]).lower() for device in xllamacpp.get_device_info()]
    kinds = {"cuda": ("cuda",), "rocm": ("rocm",), "hip": ("rocm",), "vulkan": ("cuda", "rocm")}
    found = {kind for name in names for prefix, own in kinds.items() if name.startswith(prefix) for kind in own}
    return ("cpu", *sorted(found))


def _place(params: Any, devices: tuple[Device, ...], on_gpu: bool) -> None:
    """Put the layers where *devices* say. The neuron lets this process see only the GPUs it was given."""
    if not on_gpu:
        params.n_gpu_layers = 0
        return
    gpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_GPU
    if not any(device["type"] == gpu for device in xllamacpp.get_device_info()):
        names = ", ".join(device.name for device in devices)
        raise LoadError(
            f"the model was placed on {names}, and this build of xllamacpp has no GPU backend: install the wheel for "
            "your GPU (see the xllamacpp project for its CUDA, ROCm and Vulkan wheels), or place the model on the CPU"
        )
    params.n_gpu_layers = ALL_LAYERS
    if len(devices) > 1:
        total = sum(device.memory_free_bytes for device in devices) or 1
        params.tensor_split = [device.memory_free_bytes / total for device in devices]
