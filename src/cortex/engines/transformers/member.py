"""One rank's part in everything that a group does; rank 0 in the engine process, the others in processes of their own.

A group of one computes alone and joins nobody.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cortex.engines.transformers.batch import Batch, Choose, Prefill
from cortex.engines.transformers.loading import Shard, load_shard
from cortex.engines.transformers.messages import Admit, Join, ShardPlan

# Who is dead or silent is found by watching processes, long before; this ends what even that has missed.
COLLECTIVE_SECONDS = 600.0
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class Member:
    """Owns this rank's model. Every method runs on the one thread that computes."""

    def __init__(self, choose: Choose | None = None) -> None:
        """Rank 0 says by *choose* which tokens follow; the others are told."""
        self._choose = choose
        self._ranks = 1
        self._device = torch.device("cpu")
        self.shard: Shard | None = None
        self._batch: Batch | None = None

    @staticmethod
    def use_threads(threads: int) -> None:
        """Compute with as many *threads* from this one on."""
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)

    def join(self, order: Join) -> None:
        """Form the group; returns when every rank is there. The directory is the group's alone."""
        os.environ |= {"RANK": str(order.rank), "LOCAL_RANK": str(order.rank), "WORLD_SIZE": str(order.ranks)}
        # One host: nothing of a group is to be reached from outside.
        os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        self.use_threads(order.threads)
        self._ranks = order.ranks
        if order.device != "cpu":
            self._device = torch.device("cuda", order.rank)
            torch.cuda.set_device(self._device)
        store = dist.FileStore(str(Path(order.directory, "rendezvous")), order.ranks)
        dist.init_process_group(
            BACKENDS[order.device],
            store=store,
            rank=order.rank,
            world_size=order.ranks,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )

    def self_check(self) -> float:
        """Return the sum of one of every rank, which is how many there are."""
        one = torch.ones(1, device=self._device)
        dist.all_reduce(one)
        return float(one.item())

    def reduce(self, size_bytes: int, rounds: int) -> float:
        """Return the seconds that adding up *size_bytes* over all ranks takes, on average of *rounds*."""
        tensor = torch.ones(max(1, size_bytes // 4), device=self._device)
        dist.all_reduce(tensor)
        began = time.perf_counter()
        for _ in range(rounds):
            dist.all_reduce(tensor)
        tensor[0].item()  # a GPU has only been told until somebody looks
        return (time.perf_counter() - began) / rounds

    def load(self, plan: ShardPlan, rank: int) -> None:
        """Load this rank's share and make its cache. Raises LoadError."""
        self.use_threads(plan.threads)
        self.shard = load_shard(plan, rank)
        self._device = self.shard.device
        if plan.generates:
            self._batch = Batch(self.shard, plan, self._follow if self._choose is None else self._lead)

    def step(self, admitted: Sequence[Admit], cancelled: Sequence[str]) -> list[Prefill]:
        """Compute one step of the batch."""
        assert self._batch is not None, "no model is loaded"
        return self._batch.step(admitted, cancelled)

    def _lead(self, ids: Sequence[str], logits: Any) -> Any:
        assert self._choose is not None
        tokens = self._choose(ids, logits)
        if self._ranks > 1:
            dist.broadcast(tokens, 0)
        return tokens

    def _follow(self, ids: Sequence[str], logits: Any) -> Any:
        """Take what rank 0 chose: only it has the samplers, and no rank's rounding may part the group."""
        tokens = torch.empty(len(ids), dtype=torch.long, device=logits.device)
        dist.broadcast(tokens, 0)
        return tokens

    @property
    def batch(self) -> Batch:
        """The batch of the model that is loaded."""
        assert self._batch is not None, "no model is loaded"
        return self._batch

    def reset(self) -> None:
        """Drop every sequence and all that is cached."""
        self.batch.reset()

    def unload(self) -> None:
        """Let go of the model."""
        self.shard = self._batch = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
