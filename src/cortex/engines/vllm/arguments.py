"""What vLLM is started with for a spec: its arguments, and the environment of its processes. Pure.

The names are those of `vllm.AsyncEngineArgs` and `vllm.envs`, as of 0.32.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from cortex.engines.transformers.folder import Folder
from cortex.engines.vllm.estimate import Budget, computed_dtype, memory_share
from cortex.engines.vllm.options import Options, Split, batch_of, is_eager, on_gpu, slots_of
from cortex.wire.engine_api import EngineSpec

READY_SECONDS = 7200


def engine_arguments(
    spec: EngineSpec,
    folder: Folder,
    options: Options,
    split: Split,
    budget: Budget,
    context: int,
    reasoning_parser: str | None = None,
) -> dict[str, Any]:
    """Return the arguments of the engine that loads *spec*, which takes what *budget* says and no more."""
    generates = folder.generates and not options.embeddings
    arguments: dict[str, Any] = {
        "model": str(folder.path),
        "served_model_name": [spec.model],
        "runner": "generate" if generates else "pooling",
        "dtype": computed_dtype(folder, options),
        "max_model_len": context,
        "max_num_seqs": slots_of(spec, options),
        "max_num_batched_tokens": batch_of(spec, options) if generates else max(batch_of(spec, options), context),
        "gpu_memory_utilization": memory_share(spec, budget),
        "kv_cache_dtype": options.kv_cache_dtype,
        "enable_prefix_caching": options.prefix_cache and generates,
        "enforce_eager": is_eager(spec, options),
        "tensor_parallel_size": split.tensor,
        "pipeline_parallel_size": split.pipeline,
        "distributed_executor_backend": options.distributed_executor_backend,
        "generation_config": "auto",
        "language_model_only": True,
        "trust_remote_code": False,
        "disable_log_stats": True,
        "kv_cache_memory_bytes": budget.cache_bytes,
    }
    if not generates and folder.generates:
        arguments["convert"] = "embed"
    if generates and reasoning_parser is not None:
        arguments["reasoning_parser"] = reasoning_parser
    return arguments


def environment(spec: EngineSpec, options: Options, split: Split, cores: Sequence[int]) -> dict[str, str]:
    """Return what the environment of vLLM's processes is to say; *cores* are those that this process may use."""
    told = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # what is forked would hold the sockets and threads of this process
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(max(1, round(options.step_seconds))),
        "VLLM_ENGINE_READY_TIMEOUT_S": str(READY_SECONDS),
    }
    if not on_gpu(spec):
        told["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(_bound(cores, split.local_ranks))
    if is_eager(spec, options):
        told["TORCHDYNAMO_DISABLE"] = "1"  # else the first log probabilities wait for a compiler
    if options.ray_address is not None:
        told["RAY_ADDRESS"] = options.ray_address
    return told


def _bound(cores: Sequence[int], ranks: int) -> list[str]:
    """Return the cores of each rank; one stays free for the loops that serve, if there are more than ranks."""
    given = sorted(cores)
    used = given[: max(ranks, len(given) - 1)]
    each, more = divmod(len(used), ranks)
    if not each:
        return [str(used[rank % len(used)]) for rank in range(ranks)]
    ends = [0]
    for rank in range(ranks):
        ends.append(ends[-1] + each + (rank < more))
    return [",".join(map(str, used[start:end])) for start, end in pairwise(ends)]
