"""Embeddings of a model that is loaded: one vector an input, pooled as the model's own files say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor
from typing import Any

import anyio
import torch

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.engines.base import Event, LoadError
from cortex.engines.transformers.folder import Folder
from cortex.engines.transformers.loading import Shard
from cortex.engines.transformers.prompts import Prompts, texts_of
from cortex.engines.vectors import encoded, shortened
from cortex.wire.engine_api import Chunk, Finished, Generate, Timings, Usage
from cortex.wire.json import decode_any, encode

_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_KNOWN_STEPS = ("Pooling", "Normalize")


def pooling_of(folder: Folder) -> str:
    """Return how tokens' vectors become one: as the folder says, else their mean. Raises LoadError if it is unknown."""
    if unknown := [step for step in folder.modules if not any(known in step for known in _KNOWN_STEPS)]:
        raise LoadError(f"{folder.path.name}/modules.json has a step that is not known here: {unknown[0]}")
    wanted = [name for name, value in folder.pooling.items() if name.startswith("pooling_mode_") and value]
    if not wanted:
        return "mean"
    if len(wanted) > 1 or wanted[0] not in _POOLINGS:
        raise LoadError(f"{folder.path.name}: pooling by {', '.join(wanted)} is not known here")
    return _POOLINGS[wanted[0]]


class Embedding:
    """One model that embeds. It computes on *thread*, a batch of inputs at a time."""

    def __init__(
        self, model: str, shard: Shard, prompts: Prompts, folder: Folder, context: int, batch: int, thread: Executor
    ) -> None:
        self._model, self._shard, self._prompts = model, shard, prompts
        self._pooling, self._context, self._batch, self._thread = pooling_of(folder), context, batch, thread

    async def embed(self, request: Generate, *, shortens: bool, hint: str) -> AsyncGenerator[Event, None]:
        """Run one request; see the protocol of engines. Leaving it stops after the batch under way."""
        fields = decode_any(request.body)
        dimensions, encoding = fields.get("dimensions"), fields.get("encoding_format")
        if dimensions is not None and not shortens:
            raise BadRequest(
                f"dimensions: not known of {self._model} ({hint})", param="dimensions", code="unsupported_parameter"
            )
        inputs = [self._read(each) for each in texts_of(fields["input"])]
        vectors: list[list[float]] = []
        for part in _parts(inputs, self._batch):
            vectors += await self._compute(part)
        data = [
            {"object": "embedding", "index": at, "embedding": encoded(shortened(vector, dimensions), encoding)}
            for at, vector in enumerate(vectors)
        ]
        yield Chunk(request.id, encode({"object": "list", "model": self._model, "data": data}))
        yield Finished(request.id, "stop", Usage(prompt_tokens=sum(map(len, inputs))), Timings())

    def _read(self, value: str | list[int]) -> list[int]:
        tokens = self._prompts.tokens(value) if isinstance(value, str) else value
        if len(tokens) > self._context:
            raise ContextLengthExceeded(len(tokens), self._context)
        if not tokens:
            raise BadRequest("input: an input without tokens has no embedding", param="input")
        return tokens

    async def _compute(self, part: list[list[int]]) -> list[list[float]]:
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._forward, part)
        try:
            return await asyncio.shield(done)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([done])

    def _forward(self, part: list[list[int]]) -> list[list[float]]:
        """Return the vectors of *part*; the thread it runs on keeps no gradients."""
        longest = max(map(len, part))
        ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in part], device=self._shard.device)
        mask = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens in part], device=ids.device)
        hidden = self._shard.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        pooled = torch.nn.functional.normalize(_pool(hidden, mask, self._pooling), dim=-1)
        vectors: list[list[float]] = pooled.tolist()
        return vectors


def _pool(hidden: Any, mask: Any, how: str) -> Any:
    """Return one vector a row of *hidden*, of its tokens that *mask* counts."""
    if how == "cls":
        return hidden[:, 0]
    if how == "last":
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
    wide = mask.unsqueeze(-1)
    if how == "max":
        return hidden.masked_fill(wide == 0, float("-inf")).max(1).values
    return (hidden * wide).sum(1) / wide.sum(1)


def _parts(inputs: Sequence[list[int]], tokens: int) -> list[list[list[int]]]:
    """Return *inputs* in batches that come to about so many *tokens* with their padding, in order."""
    parts: list[list[list[int]]] = []
    for each in inputs:
        longest = max(len(each), *map(len, parts[-1])) if parts else len(each)
        if parts and (len(parts[-1]) + 1) * longest <= tokens:
            parts[-1].append(each)
        else:
            parts.append([each])
    return parts
