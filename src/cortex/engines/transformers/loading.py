"""Load one rank's share of a model. Weights come from safetensors alone, and no code that lies with them is run."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from cortex.engines.base import LoadError
from cortex.engines.transformers.messages import ShardPlan


@dataclass(frozen=True, slots=True)
class Shard:
    """A rank's model, and where it computes."""

    model: Any
    device: Any


def device_of(plan: ShardPlan, rank: int) -> Any:
    """Return where *rank* computes; a GPU by its place among those that this group sees. Not run on a GPU."""
    if plan.device == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def load_shard(plan: ShardPlan, rank: int) -> Shard:
    """Return the share of *rank*. Raises LoadError with what the library says is wrong with the model."""
    device = device_of(plan, rank)
    family = AutoModelForCausalLM if plan.generates else AutoModel
    where: dict[str, Any] = {"device_map": None if plan.device == "cpu" else device}
    if plan.ranks > 1:
        where = {"distributed_config": DistributedConfig(tp_size=plan.ranks)}
    try:
        model = family.from_pretrained(
            Path(plan.path),
            dtype=plan.dtype,
            attn_implementation=plan.attention if plan.generates else "sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **where,
        )
    except (ValueError, ImportError, KeyError, AttributeError, OSError, NotImplementedError) as error:
        raise LoadError(f"transformers cannot load {Path(plan.path).name}: {_first_line(error)}") from error
    if plan.device == "cpu":
        _own(model)
    return Shard(model.eval(), device)


def _own(model: Any) -> None:
    """Copy weights that are mapped from their file: those count as free memory to the system, until they are not."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    gc.collect()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if not isinstance(error, KeyError) else f"{error} is missing"
