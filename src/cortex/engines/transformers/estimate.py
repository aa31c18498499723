"""What a folder of safetensors will take on each device before it is loaded. Pure."""

from __future__ import annotations

from cortex.engines.transformers.folder import Folder
from cortex.engines.transformers.options import Options, batch_of, is_gpu, ranks_of
from cortex.wire.engine_api import EngineSpec

# Measured: a rank that has imported torch and transformers and formed its group, without a model.
CPU_PROCESS_BYTES, GPU_CONTEXT_BYTES = 420 << 20, 600 << 20
# Float32 logits, their copy for sampling, and a layer's intermediate values.
LOGITS_COPIES, HIDDEN_COPIES = 3, 12


def context_of(spec: EngineSpec, folder: Folder, default: int) -> int:
    """Return the tokens that one request may have: asked for, or what the model was trained on, within reason."""
    return spec.context or min(folder.context_length or default, default)


def estimate(spec: EngineSpec, folder: Folder, options: Options, context: int) -> dict[int, int]:
    """Return bytes by device. Ranks on one device, as on a CPU, add up there."""
    asked = ranks_of(spec, options)
    # Devices that the heads cannot be dealt out to take nothing off the others: whoever looks for room goes no wider.
    ranks = next(count for count in range(asked, 0, -1) if folder.splits_over(count))
    weights = _weights_per_rank(folder, options, ranks)
    cache = folder.kv_bytes_per_token(options.dtype) * context * options.slots // ranks if folder.generates else 0
    each = weights + cache + _working_bytes(spec, folder, options, context)
    if any(map(is_gpu, spec.devices)):
        return {device.index: each + GPU_CONTEXT_BYTES for device in spec.devices}
    per_device = -(-ranks // len({device.index for device in spec.devices})) * (each + CPU_PROCESS_BYTES)
    return {device.index: per_device for device in spec.devices}


def _weights_per_rank(folder: Folder, options: Options, ranks: int) -> int:
    """Return one rank's share: what belongs to layers is split, embeddings and head are counted whole."""
    whole = folder.weights_bytes(options.dtype)
    if ranks == 1:
        return whole
    layered = sum(bytes_ for name, (_, bytes_) in folder.tensors.items() if ".layers." in name or ".h." in name)
    stored = sum(bytes_ for _, bytes_ in folder.tensors.values()) or 1
    split = whole * layered // stored
    return whole - split + split // ranks


def _working_bytes(spec: EngineSpec, folder: Folder, options: Options, context: int) -> int:
    """Return what one step takes beside weights and cache: logits, a layer's values, and the attention mask."""
    batch, element = batch_of(spec, options), folder.element_bytes(options.dtype)
    hidden = int(folder.config.get("hidden_size") or folder.config.get("n_embd") or 0)
    if not folder.generates:
        return HIDDEN_COPIES * context * hidden * 4
    logits = LOGITS_COPIES * options.slots * folder.vocabulary_size * 4
    return HIDDEN_COPIES * batch * hidden * 4 + logits + batch * context * options.slots * element
