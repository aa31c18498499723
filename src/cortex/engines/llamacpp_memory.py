"""What a GGUF model takes on each device, and how many slots and how much context there is room for.

One function, `shares_of`, says how a model is split: llama.cpp is told it, and the estimate follows it. Shares and room
follow what devices hold in all, not what is free on them now, so that a model is the same on the same devices each
time, and what was measured of it stays true.

Sources: llama.cpp, `llama_model::load_tensors` (which layer goes where), `llama_kv_cache`, `sched_reserve` (the compute
buffer, checked against what it logs on a CPU); process and vocabulary: measured. GPU figures were not run on one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from cortex.engines import gguf
from cortex.engines.base import LoadError
from cortex.engines.gguf import BLOCKS, GgufHeader
from cortex.engines.llamacpp_options import Options
from cortex.wire.engine_api import Device, EngineSpec

MAX_ESTIMATE_BYTES = 1 << 60
DEFAULT_SLOTS = 4
DEFAULT_CONTEXT_TOKENS = 8192
LEAST_CONTEXT_TOKENS = 2048
"""Where nobody asked for a context, it is not made smaller than this to fit; with it, one slot is the least."""
ROOM_SHARE = 0.9
"""Of a device, what one model may plan to fill; the rest is the driver's, the desktop's and what estimates miss."""
CONTEXT_STEP = 256
DEFAULT_CACHE_MIB = 64
# A prefill step is what an abort and everybody who decodes wait for. On a CPU larger ones gain nothing (measured: 146
# tok/s of one core at 64, 145 at 128, 110 at 32).
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 64, 2048
UBATCH_TOKENS = 512
# Gemma looks at all of an image at once: it must fit into one step.
WHOLE_IMAGE_TOKENS = 512

_KV_KINDS = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2}
_PROCESS_BYTES = 46 << 20
_TOKEN_BYTES = 420
_GPU_CONTEXT_BYTES = 400 << 20


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF model's file: its header, and its bytes over all shards."""

    header: GgufHeader
    bytes: int

    @property
    def layers(self) -> tuple[int, ...]:
        """The bytes of each layer, and last of all that is none's, which goes where the output is."""
        count, known = self.header.block_count, self.header.layer_bytes
        if count > gguf.MAX_KEPT_ELEMENTS:
            raise LoadError(f"bad GGUF: it claims {count} layers")
        if self.header.split_count > 1 or not count or len(known) != count or max(known) >= count:
            even = self.bytes // (count + 1)
            return (even,) * count + (self.bytes - even * count,)
        layers = tuple(known[at] for at in range(count))
        return (*layers, max(0, self.bytes - sum(layers)))


@dataclass(frozen=True, slots=True)
class Model:
    """Everything that is loaded for one spec."""

    weights: Weights
    projector: Weights | None = None
    draft: Weights | None = None
    adapter_bytes: int = 0

    @property
    def header(self) -> GgufHeader:
        """The header of the model itself."""
        return self.weights.header

    @property
    def sees(self) -> bool:
        """Whether it takes images."""
        return self.projector is not None and self.projector.header.projector is not None


@dataclass(frozen=True, slots=True)
class Shape:
    """How many requests decode at once, and the tokens that each may have."""

    slots: int
    context_tokens: int


def read_model(spec: EngineSpec, options: Options) -> Model:
    """Return what *spec* loads, by the headers of its files. Raises LoadError."""
    projector = spec.files.get(options.mmproj if isinstance(options.mmproj, str) else "mmproj")
    return Model(
        _read(spec.path),
        _read(projector) if projector and options.mmproj is not False else None,
        _read(spec.files[options.draft]) if options.draft else None,
        sum(gguf.weights_bytes(Path(spec.files[adapter.source])) for adapter in options.adapters),
    )


def _read(path: str) -> Weights:
    return Weights(gguf.read_header(Path(path)), gguf.weights_bytes(Path(path)))


def shape_of(model: Model, options: Options, context: int | None, devices: Sequence[Device]) -> Shape:
    """Return the first shape that fits the *devices* were they empty; the least there is if none does.

    Fewer slots before less context: a slot less makes somebody wait, less context refuses him. Neither goes below what
    the spec asks for, nor above it.
    """
    shapes = list(shapes_of(model.header, options, context))
    if not devices:
        return shapes[0]
    return next((shape for shape in shapes if _has_room(model, options, shape, devices)), shapes[-1])


def shapes_of(header: GgufHeader, options: Options, context: int | None) -> Iterator[Shape]:
    """Yield the shapes to try, the best first; their contexts are those that llama.cpp holds a request to.

    It makes whole steps of what is asked for, and no more than the model was trained on.
    """
    trained = header.context_length or context or DEFAULT_CONTEXT_TOKENS
    most = min(padded(context or DEFAULT_CONTEXT_TOKENS), trained)
    least = most if context else min(most, LEAST_CONTEXT_TOKENS)
    slots = (options.slots,) if options.slots else range(DEFAULT_SLOTS, 0, -1)
    while most >= least:
        yield from (Shape(count, most) for count in slots)
        most //= 2


def _has_room(model: Model, options: Options, shape: Shape, devices: Sequence[Device]) -> bool:
    totals = [device.memory_total_bytes * ROOM_SHARE for device in devices]
    taken = bytes_of(model, options, shape, devices)
    return all(not total or bytes_ <= total for bytes_, total in zip(taken, totals, strict=True))


def shares_of(options: Options, devices: Sequence[Device]) -> tuple[float, ...]:
    """Return how much of the model each device gets, of 1: as the options say, else by what the devices hold in all."""
    if options.split == "none":
        wanted: list[float] = [at == main_of(options, devices) for at in range(len(devices))]
    else:
        wanted = [options.tensor_split[rank] for rank in _ranks(devices)] if options.tensor_split else []
    wanted = wanted or [device.memory_total_bytes or device.memory_free_bytes for device in devices]
    total = sum(wanted)
    return tuple(each / total for each in wanted) if total else (1 / len(devices),) * len(devices)


def main_of(options: Options, devices: Sequence[Device]) -> int:
    """Return which of *devices* has what is not split: options count them by index, whatever their order here."""
    return _ranks(devices).index(options.main_device)


def _ranks(devices: Sequence[Device]) -> list[int]:
    order = sorted(device.index for device in devices)
    return [order.index(device.index) for device in devices]


def bytes_of(model: Model, options: Options, shape: Shape, devices: Sequence[Device]) -> tuple[int, ...]:
    """Return what *model* takes on each of *devices*, in bytes. Raises LoadError if that is no model's.

    On a CPU all of it is the process's memory. On GPUs, whatever stays with the host (token embeddings, the cache of
    `cache_ram_mib`) is not counted: what is planned is the GPUs' memory.
    """
    on_gpu = runs_on_gpu(devices)
    shares = shares_of(options, devices)
    spread = _spread(model, options, shape, shares, main_of(options, devices))
    rows = micro_step_of(model, options, shape, devices)
    aside = model.adapter_bytes + _projector_bytes(model) + _draft_bytes(model, options, shape, rows)
    compute = compute_bytes(model.header, options, shape, rows)
    if not on_gpu:
        own = _PROCESS_BYTES + _TOKEN_BYTES * model.header.vocabulary_size
        cache = cache_mib_of(model.header, options, shape) << 20
        total = sum(spread) + aside + compute + own + cache
        totals = [math.ceil(share * total) for share in shares]  # a CPU may count as several devices
    else:
        fixed = [_GPU_CONTEXT_BYTES + compute if share else 0 for share in shares]
        totals = [own + more for own, more in zip(spread, fixed, strict=True)]
        totals[main_of(options, devices)] += aside
    if max(totals) > MAX_ESTIMATE_BYTES:
        raise LoadError(f"bad GGUF: it would take {max(totals) >> 40} TiB")
    return tuple(totals)


def _spread(model: Model, options: Options, shape: Shape, shares: Sequence[float], main: int) -> list[int]:
    """Return weights and KV cache on each device: whole layers, or a part of each."""
    layers, cache = model.weights.layers, layer_kv_bytes(model.header, options.kv_type, shape)
    if options.split == "tensor":
        return [math.ceil(share * (sum(layers) + sum(cache))) for share in shares]
    if options.split == "row":
        rows = [math.ceil(share * sum(layers)) for share in shares]
        rows[main] += sum(cache)
        return rows
    spread = [0] * len(shares)
    homes = homes_of(len(layers), shares)
    for at, bytes_ in enumerate(layers):
        spread[homes[at]] += bytes_ + (cache[at] if at < len(cache) else 0)
    return spread


def homes_of(count: int, shares: Sequence[float]) -> list[int]:
    """Return the device of each of *count* layers, the output being the last, as llama.cpp finds them."""
    ends = [*accumulate(shares)][:-1]
    return [bisect_right(ends, at / count) for at in range(count)]


def layer_kv_bytes(header: GgufHeader, kv_type: str, shape: Shape) -> list[int]:
    """Return the bytes of each layer's KV cache: a key and a value for each KV head, context and slot.

    Sliding windows and recurrent layers take less than this. Raises LoadError where the header's figures cannot be.
    """
    if header.is_encoder:
        return []
    elements, block_bytes = BLOCKS[_KV_KINDS[kv_type]]
    tokens = padded(shape.context_tokens) * shape.slots
    each = (header.key_length + header.value_length) * tokens * block_bytes
    layers = [heads * each // elements for heads in header.head_counts_kv]
    if sum(layers) > MAX_ESTIMATE_BYTES:
        raise LoadError(f"bad GGUF: its KV cache would take {sum(layers) >> 40} TiB")
    return layers


def padded(context_tokens: int) -> int:
    """Return the cells that llama.cpp makes for a context."""
    return -(-context_tokens // CONTEXT_STEP) * CONTEXT_STEP


def compute_bytes(header: GgufHeader, options: Options, shape: Shape, rows: int) -> int:
    """Return the compute buffer of a micro-batch of *rows* tokens, and the logits of one token a slot.

    Activations of the widest layer and the attention mask; without flash attention, also all scores of a layer.
    """
    context = padded(shape.context_tokens)
    activations = rows * 4 * (4 * header.feed_forward_length + 3 * header.embedding_length)
    scores = rows * 4 * header.head_count * context if options.flash_attention is False else 0
    logits = 2 * 4 * shape.slots * (header.vocabulary_size + header.embedding_length)
    return activations + rows * 2 * context + scores + logits


def step_of(model: Model, options: Options, shape: Shape, devices: Sequence[Device]) -> int:
    """Return the tokens of a prefill step, which everybody who decodes waits for; an embedding is a single one."""
    if embeds(options, model.header):
        return shape.context_tokens
    step = options.batch or (GPU_BATCH_TOKENS if runs_on_gpu(devices) else CPU_BATCH_TOKENS)
    looks_at_once = model.projector is not None and (model.projector.header.projector or "").startswith("gemma")
    return max(step, WHOLE_IMAGE_TOKENS) if looks_at_once else step


def micro_step_of(model: Model, options: Options, shape: Shape, devices: Sequence[Device]) -> int:
    """Return the tokens that are computed at once."""
    step = step_of(model, options, shape, devices)
    return step if embeds(options, model.header) else min(step, UBATCH_TOKENS)


def embeds(options: Options, header: GgufHeader) -> bool:
    """Whether the model is loaded to embed or to rank, not to generate."""
    return header.is_embedding_model if options.embeddings is None else options.embeddings or header.ranks


def cache_mib_of(header: GgufHeader, options: Options, shape: Shape) -> int:
    """Return the MiB of host memory for prompts that lost their slot: not more than one context, unless asked for."""
    if embeds(options, header):
        return 0
    if options.cache_ram_mib is not None:
        return options.cache_ram_mib
    one = sum(layer_kv_bytes(header, options.kv_type, Shape(1, shape.context_tokens)))
    return min(DEFAULT_CACHE_MIB, -(-one >> 20))


def runs_on_gpu(devices: Sequence[Device]) -> bool:
    """Whether any of *devices* is one."""
    return any(device.kind not in ("cpu", "simulated") for device in devices)


def _projector_bytes(model: Model) -> int:
    """Return a vision tower's weights, and the buffer of the largest image that it is made for."""
    if model.projector is None:
        return 0
    numbers = {key.rpartition(".")[2]: value for key, value in model.projector.header.metadata.items()}
    side, patch, width = (numbers.get(key) for key in ("image_size", "patch_size", "embedding_length"))
    if not (isinstance(side, int) and isinstance(patch, int) and isinstance(width, int)) or patch < 1:
        return model.projector.bytes
    return model.projector.bytes + (side // patch) ** 2 * width * 4 * 16


def _draft_bytes(model: Model, options: Options, shape: Shape, rows: int) -> int:
    if model.draft is None:
        return 0
    cache = sum(layer_kv_bytes(model.draft.header, "f16", shape))
    return model.draft.bytes + cache + compute_bytes(model.draft.header, options, shape, rows)
