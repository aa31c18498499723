"""One rank's model under transformers' continuous batching, driven a step at a time.

The library schedules, pages the cache and runs the model; which token follows is chosen through its seam for logits
processors. Its own loop is not used: every rank of a group makes the same steps in the order that rank 0 says.
Source: transformers 5.23, `generation/continuous_batching` (its insides move between minor versions: it is pinned).
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.continuous_api import (
    BackgroundThreadStatus,
    ContinuousBatchProcessor,
)
from transformers.generation.continuous_batching.distributed import DistributedHelper
from transformers.generation.continuous_batching.initialization import (
    resolve_continuous_batching_config,
    update_cb_config_after_cache_creation,
)
from transformers.generation.continuous_batching.requests import RequestState
from transformers.generation.continuous_batching.scheduler import FIFOScheduler

from cortex.engines.base import LoadError
from cortex.engines.transformers.loading import Shard
from cortex.engines.transformers.messages import Admit, ShardPlan

PAGE_TOKENS = 32
"""The grain of the cache, and of a prefix that is found again in it."""

Choose = Callable[[Sequence[str], Any], Any]
"""`choose(ids, logits)`: the next token of each sequence, as a tensor; *logits* has a row for each of *ids*."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """How far the prompt of a sequence is after a step, in tokens; *cached* of them were found in the cache."""

    id: str
    done: int
    total: int
    cached: int


class Batch:
    """Owns the sequences that this rank computes, and their cache."""

    def __init__(self, shard: Shard, plan: ShardPlan, choose: Choose) -> None:
        self._model = shard.model
        self._router = _NoRouter()
        self._choice = _Choice(choose)
        self._admitted: queue.Queue[Any] = queue.Queue()
        self._cancelled: queue.Queue[str] = queue.Queue()
        self._prefilling: dict[str, Any] = {}
        self._cached: dict[str, int] = {}
        try:
            self._processor = self._make(shard, plan)
        except (ValueError, AttributeError) as error:
            raise LoadError(f"transformers cannot batch this architecture: {error}") from error

    def _make(self, shard: Shard, plan: ShardPlan) -> Any:
        model, text = shard.model, shard.model.config.get_text_config()
        if plan.attention == "eager":
            model.set_attn_implementation("paged|eager")
        config = resolve_continuous_batching_config(
            config=text,
            cb_config=_config(plan),
            workload_hints=None,
            has_logit_processors=True,
            device=shard.device,
        )
        group = DistributedHelper(getattr(model, "_device_mesh", None), None, getattr(model, "tp_plan", {}))
        keeps = getattr(model, "_supports_logits_to_keep", None)
        cache = PagedAttentionCache(
            config=text,
            continuous_batching_config=config,
            device=shard.device,
            distributed_helper=group,
            dtype=model.dtype,
            model_supports_logits_to_keep=callable(keeps) and keeps(),
        )
        update_cb_config_after_cache_creation(config, cache.num_blocks, cache.max_batch_tokens)
        return ContinuousBatchProcessor(
            cache=cache,
            config=text,
            generation_config=GenerationConfig(do_sample=False),
            continuous_batching_config=config,
            logit_processor=self._choice,
            input_queue=self._admitted,
            cancel_queue=self._cancelled,
            output_router=self._router,
            background_thread_status=BackgroundThreadStatus(),
            model_device=shard.device,
            model_dtype=model.dtype,
            scheduler=FIFOScheduler(cache, safety_margin=0.0, max_requests_per_batch=plan.slots),
            # Each rank is told by ours what comes and goes; none asks the others through the library.
            distributed_helper=DistributedHelper(None, None),
        )

    def step(self, admitted: Sequence[Admit], cancelled: Sequence[str]) -> list[Prefill]:
        """Let sequences in and out, compute one step, and return how far each prompt under way is.

        The sequences that *choose* was asked about have one token more; what ended is out of the batch.
        """
        for each in admitted:
            state = RequestState(
                request_id=each.id,
                initial_tokens=each.prompt,
                max_new_tokens=each.limit,
                eos_token_id=each.stop_ids,
            )
            self._prefilling[each.id] = state
            self._admitted.put(state)
        for id_ in cancelled:
            self._prefilling.pop(id_, None)
            self._cached.pop(id_, None)
            self._cancelled.put(id_)
        if not self._processor.prepare_next_batch():
            return []
        reached = self._reached()
        self._processor._generation_step(self._model)
        self._processor.update_batch()
        return reached

    def _reached(self) -> list[Prefill]:
        """Return how far the prompts in the batch that was just prepared will be when it is computed."""
        reached = []
        for future in self._processor.inputs_and_outputs.requests_in_batch:
            state = self._prefilling.get(future.state.request_id)
            if state is None:
                continue
            total, done = len(state.initial_tokens), len(state.initial_tokens) - len(state.remaining_prefill_tokens)
            cached = self._cached.setdefault(state.request_id, done - future.query_length)
            reached.append(Prefill(state.request_id, done, total, cached))
            if done == total:
                del self._prefilling[state.request_id], self._cached[state.request_id]
        return reached

    @property
    def ids(self) -> set[str]:
        """The sequences that are in the batch or wait to be."""
        scheduler = self._processor.scheduler
        return {*scheduler.active_requests, *scheduler.waiting_requests}

    def free_share(self) -> float:
        """Return how much of the cache is free, of 1."""
        self._processor.cache.pool.try_to_free_sectors()
        share: float = self._processor.cache.compute_free_capacity()
        return share

    def reset(self) -> None:
        """Drop every sequence and all that is cached."""
        self._processor.reset()
        self._processor.cache.reset()
        self._prefilling.clear()
        self._cached.clear()


class _Choice:
    """What the library takes for its list of logits processors: the chosen token is left as the only one possible."""

    tensors_required = 0
    do_processing = True

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._ids: list[str] = []

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Nothing is passed through the library."""

    def fill_defaults(self, tensor: Any) -> None:
        """Nothing is kept in its tensors."""

    def prepare_tensor_args(self, requests_in_batch: Sequence[Any], arg_storage: Any) -> Any:
        """Note whose rows the logits of this step will be."""
        self._ids = [each.state.request_id for each in requests_in_batch if each.has_new_token]
        return arg_storage

    def __call__(self, input_ids: Any, scores: Any, arguments: Any) -> Any:
        """Return scores whose greatest is the chosen token's; the rows after the sequences' are padding."""
        count = len(self._ids)
        forced = torch.zeros_like(scores)
        if count:
            tokens = self._choose(self._ids, scores[:count])
            forced[torch.arange(count, device=scores.device), tokens] = 1.0
        return forced


class _NoRouter:
    """The library hands finished requests to this; rank 0 has seen every token already."""

    def deliver_batch(self, outputs: Sequence[Any]) -> None:
        """Nothing is kept."""

    def fail_and_deliver(self, state: Any, error: Exception) -> None:
        """Raise what the library would only note."""
        raise error


def _config(plan: ShardPlan) -> Any:
    pages = -(-plan.context // PAGE_TOKENS) + 1
    return ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=pages * plan.slots,
        max_batch_tokens=plan.batch,
        max_requests_per_batch=plan.slots,
        max_blocks_per_request=0,
        allow_block_sharing=plan.prefix_cache,
        use_async_batching=False,
        use_cuda_graph=False,
        safety_margin=0.0,
        auto_switch_to_flash=False,
        disable_nccl_graph_mixing=False,
    )
