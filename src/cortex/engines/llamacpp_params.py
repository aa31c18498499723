"""From a spec and its files' headers to llama.cpp's parameters: what a model is loaded for, how, and where."""

from __future__ import annotations

import os
from enum import Enum
from typing import Any

import xllamacpp

from cortex.engines.base import LoadError
from cortex.engines.gguf import GgufHeader
from cortex.engines.llamacpp_memory import (
    Model,
    Shape,
    cache_mib_of,
    embeds,
    main_of,
    micro_step_of,
    padded,
    runs_on_gpu,
    shares_of,
    step_of,
)
from cortex.engines.llamacpp_options import Options
from cortex.engines.vocabulary import CONTEXT_TOKENS
from cortex.wire.engine_api import Device, EngineSpec

ALL_LAYERS = 999


class Use(Enum):
    """What a model is loaded for: llama.cpp does one of these at a time."""

    GENERATION = "text generation"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"


def use_of(options: Options, header: GgufHeader) -> Use:
    """Return what the file was made for, unless the spec wants embeddings of it."""
    if header.ranks:
        return Use.RERANK
    return Use.EMBEDDINGS if embeds(options, header) else Use.GENERATION


def notes_of(spec: EngineSpec, options: Options, model: Model, shape: Shape) -> list[str]:
    """Return what is worth knowing of how the model is loaded."""
    trained, context = model.header.context_length, shape.context_tokens
    notes = []
    if spec.context is not None and spec.context > context:
        notes.append(
            f"context {spec.context} was asked for; the model was trained on {context} tokens, and is held to them"
        )
    if trained and spec.context is None and context < trained:
        notes.append(f"context {context} of the {trained} that the model was trained on: set context for more")
    if model.projector is not None and not model.sees:
        notes.append("the projector beside the model is for sound, which is not offered")
    if options.slots is None and shape.slots == 1:
        notes.append("one slot: the device has no room for more")
    return notes


def default_threads() -> int:
    """Return the threads to compute with: one core stays free, since one busy neighbour costs most of the speed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, cores - 1)


def params_of(spec: EngineSpec, options: Options, model: Model, shape: Shape, api_key: str) -> Any:
    """Return the parameters of a server that answers on loopback to *api_key* only. Raises LoadError."""
    header, on_gpu = model.header, runs_on_gpu(spec.devices)
    params = _common(spec, options, api_key)
    params.model.path = spec.path
    params.n_parallel = shape.slots
    params.n_ctx = padded(shape.context_tokens) * shape.slots
    params.n_batch = step_of(model, options, shape, spec.devices)
    params.n_ubatch = micro_step_of(model, options, shape, spec.devices)
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.kv_type.upper()}")
    params.cache_ram_mib = cache_mib_of(header, options, shape)
    if options.flash_attention is not None:
        state = "ENABLED" if options.flash_attention else "DISABLED"
        params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{state}")
    if not on_gpu:
        # Mapped weights count as free memory to the system, and two models would be judged to fit into the same bytes.
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    use = use_of(options, header)
    params.embedding = use is not Use.GENERATION
    if params.embedding:
        params.pooling_type = _pooling(use, header, params.pooling_type)
    _add_files(params, spec, options, model)
    _place(params, options, spec.devices, on_gpu)
    return params


def vocabulary_params(spec: EngineSpec, options: Options, api_key: str) -> Any:
    """Return the parameters of a server that only counts tokens, but for the file, which is still to be written."""
    params = _common(spec, options, api_key)
    params.n_parallel, params.n_ctx = 1, CONTEXT_TOKENS
    params.n_batch = params.n_ubatch = CONTEXT_TOKENS
    params.n_gpu_layers = 0
    params.warmup = False
    params.cache_ram_mib = 0
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    return params


def _common(spec: EngineSpec, options: Options, api_key: str) -> Any:
    params = xllamacpp.CommonParams()
    params.model_alias = {spec.model}
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads or default_threads()
    params.fit_params = False  # what fits is decided before a load, and said; never trimmed behind the spec's back
    params.ctx_shift = False
    params.use_jinja = True
    params.api_keys = [api_key]
    params.ui = False
    params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.n_threads_http = 2
    params.verbosity = 1  # errors, which are the last words of a load that fails
    return params


def _add_files(params: Any, spec: EngineSpec, options: Options, model: Model) -> None:
    """Name what is loaded beside the weights: a projector, adapters, and what guesses tokens ahead."""
    if model.sees:
        params.mmproj.path = spec.files[options.mmproj if isinstance(options.mmproj, str) else "mmproj"]
        if options.image_tokens is not None:
            params.image_max_tokens = options.image_tokens
    params.lora_adapters = [_adapter(spec.files[each.source], each.scale) for each in options.adapters]
    kinds = []
    if options.ngram:
        kinds.append(xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE)
    if options.draft is not None:
        kinds.append(xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE)
        params.speculative.draft.mparams.path = spec.files[options.draft]
        params.speculative.draft.n_gpu_layers = ALL_LAYERS if runs_on_gpu(spec.devices) else 0
        if options.draft_tokens is not None:
            params.speculative.draft.n_max = options.draft_tokens
    if kinds:
        params.speculative.types = kinds


def _adapter(path: str, scale: float) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, scale
    return adapter


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


def _place(params: Any, options: Options, devices: tuple[Device, ...], on_gpu: bool) -> None:
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
    params.main_gpu = main_of(options, devices)
    params.split_mode = getattr(xllamacpp.llama_split_mode, f"LLAMA_SPLIT_MODE_{options.split.upper()}")
    if len(devices) > 1:
        params.tensor_split = list(shares_of(options, devices))
