"""vLLM's engine and its OpenAI serving layer, joined so that each request is known by its id from end to end.

The serving layer renders chats, binds answers to schemas and reads calls and reasoning, as `vllm serve` does; it sees
the engine through `Watched`, which adds what it does not tell: how long a prompt is, and what went wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from vllm import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.pooling_params import PoolingParams
from vllm.reasoning import ReasoningParserManager
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.tool_parsers import ToolParserManager
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.engines.base import LoadError
from cortex.engines.vllm.reading import EngineFault, fault_of

PARSERS = {"tool_parser": ToolParserManager, "reasoning_parser": ReasoningParserManager}


@dataclass
class Run:
    """One request inside vLLM: its limit of new tokens an answer, and of each of its prompts what runs and counts."""

    limit: int | None
    context: int
    prompt_tokens: int = 0
    cached: dict[str, int] = field(default_factory=dict)
    generators: list[tuple[str, AsyncGenerator[Any, None]]] = field(default_factory=list)

    @property
    def cached_tokens(self) -> int:
        """The tokens of all prompts that were in the cache."""
        return sum(self.cached.values())


class Watched:
    """An `AsyncLLM` as its serving layer sees it. Owns the requests that run."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self.runs: dict[str, Run] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def generate(self, prompt: Any, params: Any, request_id: str, **more: Any) -> AsyncGenerator[Any, None]:
        """Return what the engine generates, noted as part of the run that *request_id* belongs to.

        vLLM's own layer makes that of the run's: `chatcmpl-RUN`, or `cmpl-RUN-2` of a third prompt.
        """
        run = self.runs[request_id.split("-")[1]]
        length = len(prompt["prompt_token_ids"])
        if length >= run.context:
            raise ContextLengthExceeded(length, run.context)
        run.prompt_tokens += length
        if run.limit is not None:
            params.max_tokens = min(run.limit, params.max_tokens)
        generator = _noted(run, request_id, self._llm.generate(prompt, params, request_id, **more))
        run.generators.append((request_id, generator))
        return generator

    async def stop(self, request_id: str) -> None:
        """End the run of *request_id*; when this returns, the engine's next step is without it."""
        run = self.runs.pop(request_id)
        for name, generator in run.generators:
            with suppress(RuntimeError):  # it is running still: the task that does was cancelled in the middle of it
                await generator.aclose()
            await self._llm.abort(name)


async def _noted(run: Run, request_id: str, inner: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    try:
        async for output in inner:
            run.cached.setdefault(request_id, output.num_cached_tokens or 0)
            yield output
    finally:
        await inner.aclose()


class Serving:
    """One model in vLLM."""

    def __init__(self, llm: AsyncLLM, model: str, path: str, template: str | None, parsers: dict[str, Any]) -> None:
        self.llm = llm
        self.watched = Watched(llm)
        self._context = int(llm.model_config.max_model_len)
        self._models = OpenAIServingModels(self.watched, [BaseModelPath(name=model, model_path=path)])
        self._common: dict[str, Any] = {
            "chat_template": template,
            "chat_template_content_format": "auto",
            "enable_auto_tools": parsers["tool_parser"] is not None,
            "tool_parser": parsers["tool_parser"],
            "reasoning_parser": parsers["reasoning_parser"] or "",
            "request_logger": None,
        }
        # A forced call has arguments that follow its schema; a model that is free to call writes what it means to.
        self._chat, self._forced_chat = self._chat_of("auto"), self._chat_of("parameter")
        self._completion = OpenAIServingCompletion(
            self.watched,
            self._models,
            online_renderer=self._renderer_of("auto"),
            request_logger=None,
            enable_prompt_tokens_details=True,
        )

    def _renderer_of(self, strictness: str) -> OnlineRenderer:
        return OnlineRenderer(self.llm.model_config, self.llm.renderer, tool_strict_level=strictness, **self._common)

    def _chat_of(self, strictness: str) -> OpenAIServingChat:
        return OpenAIServingChat(
            self.watched,
            self._models,
            "assistant",
            online_renderer=self._renderer_of(strictness),
            tool_strict_level=strictness,
            enable_prompt_tokens_details=True,
            **self._common,
        )

    async def begin(
        self, kind: str, fields: dict[str, Any], limit: int | None
    ) -> tuple[Run, AsyncGenerator[str, None]]:
        """Return the run of a request and the SSE lines that it answers with. Raises RequestError or EngineFault.

        Whoever begins it stops it, by the id that *fields* give it.
        """
        run = self.watched.runs[fields["request_id"]] = Run(limit, self._context)
        try:
            if kind == "chat":
                is_forced = fields.get("tool_choice") not in (None, "auto", "none")
                chat = self._forced_chat if is_forced else self._chat
                answer = await chat.create_chat_completion(ChatCompletionRequest(**fields))
            else:
                answer = await self._completion.create_completion(CompletionRequest(**fields))
        except VLLMValidationError as error:
            raise BadRequest(str(error).partition(" (parameter=")[0], param=error.parameter) from error
        except (VLLMClientError, ValueError) as error:
            raise BadRequest(str(error)) from error
        except EngineDeadError as error:
            raise EngineFault(str(error)) from error
        if isinstance(answer, ErrorResponse):
            raise fault_of(answer.error.model_dump())
        return run, answer

    async def embed(self, tokens: list[int], request_id: str) -> list[float]:
        """Return the vector of one input."""
        params = PoolingParams(task="embed")
        async for output in self.llm.encode({"prompt_token_ids": tokens}, params, request_id):
            vector: list[float] = output.outputs.data.float().tolist()
        return vector

    @property
    def is_dead(self) -> bool:
        """Whether vLLM's processes are gone, or of no use any more."""
        return bool(self.llm.errored)

    async def answers(self, seconds: float) -> bool:
        """Return whether the engine core carries an order out within *seconds*, which it does between two steps."""
        try:
            async with asyncio.timeout(seconds):
                await self.llm.is_paused()
        except TimeoutError:
            return False
        except EngineDeadError:
            pass  # which is told elsewhere
        return True


def check_parsers(parsers: dict[str, str | None]) -> None:
    """Raise LoadError if one of *parsers*, by the option that names it, is none of vLLM's."""
    for option, name in parsers.items():
        known = PARSERS[option].list_registered()
        if name is not None and name not in known:
            raise LoadError(f"options.{option} = {name!r}: vLLM knows {', '.join(sorted(known))}; none switches it off")


def start(arguments: dict[str, Any]) -> AsyncLLM:
    """Start vLLM's processes and load. Takes as long as a load; raises LoadError."""
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except (RuntimeError, ValueError, OSError, AssertionError, ImportError, TimeoutError) as error:
        raise LoadError(f"vLLM could not load {arguments['model'].rpartition('/')[2]}: {error}") from error
