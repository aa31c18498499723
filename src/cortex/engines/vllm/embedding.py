"""Embeddings of a model in vLLM: one vector an input, all inputs of a request at once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.engines.base import Event
from cortex.engines.transformers.prompts import Prompts, texts_of
from cortex.engines.vectors import encoded, shortened
from cortex.engines.vllm.serving import Serving
from cortex.wire.engine_api import Chunk, Finished, Generate, Timings, Usage
from cortex.wire.json import decode_any, encode


@dataclass(frozen=True, slots=True)
class Embedding:
    """One model that embeds; *shortens* is whether the first numbers of its vectors are vectors too."""

    model: str
    serving: Serving
    prompts: Prompts
    context_tokens: int
    shortens: bool
    hint: str

    async def embed(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Run one request; see the protocol of engines. Leaving it aborts what is under way."""
        fields = decode_any(request.body)
        dimensions, encoding = fields.get("dimensions"), fields.get("encoding_format")
        if dimensions is not None and not self.shortens:
            raise BadRequest(
                f"dimensions: not known of {self.model} ({self.hint})", param="dimensions", code="unsupported_parameter"
            )
        inputs = [self._read(each) for each in texts_of(fields["input"])]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.serving.embed(tokens, uuid.uuid4().hex)) for tokens in inputs]
        data = [
            {"object": "embedding", "index": at, "embedding": encoded(shortened(task.result(), dimensions), encoding)}
            for at, task in enumerate(tasks)
        ]
        yield Chunk(request.id, encode({"object": "list", "model": self.model, "data": data}))
        yield Finished(request.id, "stop", Usage(prompt_tokens=sum(map(len, inputs))), Timings())

    def _read(self, value: str | list[int]) -> list[int]:
        tokens = self.prompts.tokens(value) if isinstance(value, str) else value
        if len(tokens) > self.context_tokens:
            raise ContextLengthExceeded(len(tokens), self.context_tokens)
        if not tokens:
            raise BadRequest("input: an input without tokens has no embedding", param="input")
        return tokens
