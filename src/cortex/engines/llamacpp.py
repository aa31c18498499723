"""GGUF models through llama.cpp, by the `xllamacpp` binding: CPU, CUDA, ROCm, Vulkan, Metal.

The binding computes on threads of its own and calls back with JSON bytes, which go to the client as they are. Inside
we always stream, with prefill progress on, since that is what makes a request cancellable at every step.

Run on CPU by this project's tests; the device selection for GPUs was not run on one.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import anyio
import httpx2
import msgspec
import xllamacpp

from cortex.core.errors import BadRequest
from cortex.engines import gguf, tool_templates
from cortex.engines.base import Event, LoadError, OnProgress, sheltered, unsupported
from cortex.engines.call_or_answer import CallOrAnswer, call_or_answer, in_two_passes
from cortex.engines.forced_tools import ForcedCall, forced_call
from cortex.engines.json_schemas import check_schema
from cortex.engines.legacy_logprobs import LegacyLogprobs
from cortex.engines.llamacpp_memory import Model, Shape, Weights, bytes_of, read_model, shape_of
from cortex.engines.llamacpp_options import Options, options_of
from cortex.engines.llamacpp_params import Use, device_kinds, notes_of, params_of, use_of, vocabulary_params
from cortex.engines.llamacpp_reading import Fault, Tally, fault_of, first_line, peek
from cortex.engines.one_call import OneCall
from cortex.engines.template_variables import variables_of
from cortex.engines.vectors import encoded, shortened
from cortex.engines.vocabulary import write_vocabulary
from cortex.wire.engine_api import (
    Chunk,
    EngineSpec,
    Estimate,
    Finished,
    Generate,
    Progress,
    ReplicaInfo,
    Timings,
    Tokenize,
    Usage,
)
from cortex.wire.json import decode_any, encode
from cortex.wire.reasoning import template_kwargs

EMBEDDINGS_HINT = "set options = { embeddings = true } in its spec to load it for them"
VISION_HINT = "put its projector (mmproj-….gguf) beside its weights, or name it with options = { mmproj = … }"
MATRYOSHKA_HINT = "options = { matryoshka = true } says that the first numbers of its vectors are vectors too"
Translator = CallOrAnswer | ForcedCall | LegacyLogprobs | OneCall
"""What makes other chunks of llama.cpp's, one at a time."""
_TEMPLATE_FIELDS = ("reasoning_effort", "chat_template_kwargs")


class _Call:
    """One call into the binding, on a thread; its output arrives on the loop."""

    def __init__(self, handler: Callable[..., Any], body: bytes, threads: ThreadPoolExecutor) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._handler, self._body = handler, body
        self.stopped = False
        self.done = self._loop.run_in_executor(threads, self._run)

    def _run(self) -> None:
        try:
            self._handler(self._body, self._on_data)
        finally:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    def _on_data(self, data: bytes | dict[str, Any]) -> bool:
        item = data if isinstance(data, bytes) else encode(data)
        self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        return self.stopped

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        while (item := await self._queue.get()) is not None:
            yield item
        await self.done

    async def stop(self) -> None:
        """Stop computing, and return once the slot is free."""
        self.stopped = True
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self.done])
        if not self.done.cancelled():
            self.done.exception()  # retrieved: it was raised already, or nobody wants it any more


class LlamaCpp:
    """One GGUF model in this process."""

    name: ClassVar[str] = "llamacpp"

    def __init__(self) -> None:
        self.version = f"xllamacpp {xllamacpp.__version__}"
        self.device_kinds = device_kinds()
        self._server: Any = None
        self._template_has_tools = False
        self._variables: frozenset[str] = frozenset()
        self._use = Use.GENERATION
        self._scores_are_logits = self._shortens = self._sees = False
        self._api_key = secrets.token_hex(16)
        self._info: ReplicaInfo | None = None
        self._model = ""

    def warm_up(self) -> None:
        """Nothing to do: the library is imported with this module."""

    async def estimate(self, spec: EngineSpec) -> Estimate:
        """Return weights, KV cache and buffers on each device, as the model will be split over them."""
        options = options_of(spec)
        model = await anyio.to_thread.run_sync(read_model, spec, options)
        shape = shape_of(model, options, spec.context, spec.devices)
        taken = bytes_of(model, options, shape, spec.devices)
        return Estimate({device.index: bytes_ for device, bytes_ in zip(spec.devices, taken, strict=True)})

    async def load(self, spec: EngineSpec, on_progress: OnProgress) -> ReplicaInfo:
        """Check the files' headers, then load them."""
        options = options_of(spec)
        on_progress("header", 0, 0)
        model = await anyio.to_thread.run_sync(_read, spec, options)
        header, template = model.header, model.header.chat_template
        shape = shape_of(model, options, spec.context, spec.devices)
        notes = notes_of(spec, options, model, shape)
        self._model, self._use, self._sees = spec.model, use_of(options, header), model.sees
        self._shortens = options.matryoshka
        # Qwen3's rerankers are asked for yes or no, and llama.cpp makes a probability of that itself.
        self._scores_are_logits = not header.architecture.startswith("qwen3")
        self._variables = variables_of(template)
        params = self._params(spec, options, model, shape, notes)
        on_progress("weights", 0, 0)
        await anyio.sleep(0.02)  # let that out: the binding holds the interpreter until the weights are loaded
        await self._start(spec, header, params)
        self._threads = ThreadPoolExecutor(shape.slots + 1, thread_name_prefix="llamacpp")
        self._info = ReplicaInfo(
            engine=self.name,
            engine_version=self.version,
            context_tokens=shape.context_tokens,
            slots=shape.slots,
            capabilities=() if spec.vocabulary_only else self._capabilities(template),
            notes=tuple(notes),
            template_variables=tuple(sorted(self._variables)),
            hints={"embeddings": EMBEDDINGS_HINT, "vision": VISION_HINT} if self._use is Use.GENERATION else {},
        )
        return self._info

    def _params(self, spec: EngineSpec, options: Options, model: Model, shape: Shape, notes: list[str]) -> Any:
        """Return the parameters with the template that knows tools, if the model's own can be made to."""
        if spec.vocabulary_only:
            params = vocabulary_params(spec, options, self._api_key)
        else:
            params = params_of(spec, options, model, shape, self._api_key)
        template = model.header.chat_template
        self._template_has_tools = tool_templates.knows_tools(template)
        if not self._template_has_tools and template is not None and tool_templates.can_be_widened(template):
            params.chat_template = tool_templates.widened(template)
            self._template_has_tools = True
            notes.append("the model's chat template has no tools: Hermes' tool format is used when a request has them")
        return params

    async def _start(self, spec: EngineSpec, header: gguf.GgufHeader, params: Any) -> None:
        def start() -> Any:
            if not spec.vocabulary_only:
                return xllamacpp.Server(params)
            with TemporaryDirectory(prefix="cortex-vocabulary-") as directory:
                params.model.path = str(Path(directory, "vocabulary.gguf"))
                write_vocabulary(Path(spec.path), header, Path(params.model.path))
                return xllamacpp.Server(params)

        try:
            self._server = await anyio.to_thread.run_sync(start)
        except (RuntimeError, ValueError, OSError) as error:
            beside = "".join(f", with {Path(path).name} beside it" for path in spec.files.values())
            raise LoadError(f"llama.cpp could not load {Path(spec.path).name}{beside}: {error}") from None

    def _capabilities(self, template: str | None) -> tuple[str, ...]:
        if self._use is not Use.GENERATION:
            return (self._use.value,)
        if not template:
            return ("completions",)
        tools = ("tools",) if self._template_has_tools else ()
        return ("chat", "completions", *tools, *(("vision",) if self._sees else ()))

    def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Run one request; see the protocol."""
        return sheltered(self._events(request))

    def _events(self, request: Generate) -> AsyncGenerator[Event, None]:
        if self._use is not {"embedding": Use.EMBEDDINGS, "rerank": Use.RERANK}.get(request.kind, Use.GENERATION):
            wanted = {"embedding": f"embeddings: {EMBEDDINGS_HINT}", "rerank": "rerank"}
            raise unsupported(wanted.get(request.kind, "text generation"), self._model)
        if request.kind == "embedding":
            return self._embed(request)
        return self._rank(request) if request.kind == "rerank" else self._generate(request)

    async def _generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        assert self._info is not None
        fields = decode_any(request.body)
        if request.kind == "chat":
            self._check_chat(fields)
        if fields.get("n", 1) > self._info.slots:
            raise BadRequest(f"n: this replica has {self._info.slots} slots, one for each choice", param="n")
        forced = forced_call(fields) if request.kind == "chat" else None
        either = call_or_answer(fields) if request.kind == "chat" else None
        if forced is not None and _has_images(fields):
            raise BadRequest("tool_choice: a call is not forced where there are images; use auto", param="tool_choice")
        if forced is not None:
            fields = {**forced.sampling, "prompt": await self._render(fields), "json_schema": forced.schema}
        if either is not None:
            events = self._either(request, either)
        else:
            completes = request.kind == "completion" or forced is not None
            tally = Tally(fields.get("n", 1), _stops_of(fields))
            events = self._run(request.id, fields, tally, forced or _translator(request, fields), completes=completes)
        async with aclosing(events):
            async for event in events:
                yield event

    def _either(self, request: Generate, either: CallOrAnswer) -> AsyncGenerator[Event, None]:
        def run(fields: dict[str, Any]) -> AsyncGenerator[Event, None]:
            return self._run(request.id, fields, Tally(1, _stops_of(fields)), either)

        return in_two_passes(either, run)

    async def _run(
        self,
        request_id: str,
        fields: dict[str, Any],
        tally: Tally,
        translator: Translator | None,
        *,
        completes: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Have llama.cpp compute *fields*, and tell what comes of it."""
        handler = self._server.handle_completions if completes else self._server.handle_chat_completions
        call = _Call(handler, self._native(fields), self._threads)
        try:
            async for data in call:
                for event in self._read(data, request_id, tally, translator):
                    yield event
        except ValueError as error:
            raise BadRequest(first_line(error)) from None
        finally:
            await call.stop()
        yield tally.finished(request_id)

    def _check_tools(self, fields: dict[str, Any]) -> None:
        if fields.get("tools") and fields.get("tool_choice") != "none" and not self._template_has_tools:
            raise BadRequest(f"tools: the chat template of {self._model} has no tools", param="tools")

    def _check_chat(self, fields: dict[str, Any]) -> None:
        self._check_tools(fields)
        if fields.get("response_format", {}).get("type") == "json_schema":
            check_schema(
                fields["response_format"]["json_schema"]["schema"], "response_format.json_schema.schema", enforced=True
            )
        forced = fields.get("tool_choice") not in (None, "auto", "none")
        for at, tool in enumerate(fields.get("tools") or ()):
            check_schema(tool["function"].get("parameters") or {}, f"tools[{at}].function.parameters", enforced=forced)

    def _read(self, data: bytes, request_id: str, tally: Tally, translator: Translator | None) -> list[Event]:
        """Return what one callback means."""
        seen = peek(data)
        if seen.error is not None:
            raise fault_of(seen.error)
        if seen.prompt_progress is not None:
            at = seen.prompt_progress
            return [Progress(request_id, "prefill", at.processed, at.total, at.cache)]
        data = tally.cleaned(tally.stamped(data, seen.created), seen)
        reason = next((c.finish_reason for c in seen.choices if c.finish_reason), None)
        if reason is not None:
            tally.end(seen, reason)
        if translator is not None:
            chunks = translator.translate(decode_any(data))
            tally.reason = translator.finish_reason or tally.reason
            return [Chunk(request_id, encode(chunk)) for chunk in chunks]
        return [Chunk(request_id, data)] if seen.choices else []

    def _native(self, fields: dict[str, Any]) -> bytes:
        """Return *fields* in llama.cpp's spelling where it differs from OpenAI's, and with what we ask for."""
        native = {name: value for name, value in fields.items() if name not in _TEMPLATE_FIELDS}
        if told := self._template_kwargs(fields):
            native["chat_template_kwargs"] = told
        if fields.get("continue_final_message"):
            native["add_generation_prompt"] = False
        if fields.get("top_k") == -1:
            native["top_k"] = 0
        if fields.get("stop"):
            native["verbose"] = True  # only then does it say which one ended the answer
        return encode({**native, "stream": True, "return_progress": True})

    def _template_kwargs(self, fields: dict[str, Any]) -> dict[str, Any]:
        return template_kwargs(fields.get("reasoning_effort"), fields.get("chat_template_kwargs"), self._variables)

    async def _embed(self, request: Generate) -> AsyncGenerator[Event, None]:
        fields = decode_any(request.body)
        dimensions, encoding = fields.pop("dimensions", None), fields.pop("encoding_format", None)
        if dimensions is not None and not self._shortens:
            raise BadRequest(
                f"dimensions: not known of {self._model} ({MATRYOSHKA_HINT})",
                param="dimensions",
                code="unsupported_parameter",
            )
        value = await self._whole(self._server.handle_embeddings, fields)
        for each in value["data"]:
            each["embedding"] = encoded(shortened(each["embedding"], dimensions), encoding)
        yield Chunk(request.id, encode({**value, "model": self._model}))
        yield _finished(request.id, value)

    async def _rank(self, request: Generate) -> AsyncGenerator[Event, None]:
        fields = decode_any(request.body)
        value = await self._whole(self._server.handle_rerank, fields)
        scores = [0.0] * len(fields["documents"])
        for result in value["results"]:
            score = result["relevance_score"]
            scores[result["index"]] = _probability(score) if self._scores_are_logits else score
        yield Chunk(request.id, encode({"scores": scores}))
        yield _finished(request.id, value)

    async def _whole(self, handler: Callable[..., Any], fields: dict[str, Any]) -> dict[str, Any]:
        """Return what *handler* answers at once. It cannot be stopped: its slot is free only when it is over."""
        done = asyncio.get_running_loop().run_in_executor(self._threads, handler, encode(fields))
        try:
            answer = await asyncio.shield(done)
        except ValueError as error:
            raise BadRequest(first_line(error)) from None
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([done])
        value: dict[str, Any] = decode_any(answer) if isinstance(answer, bytes) else answer
        if "error" in value:
            raise fault_of(msgspec.convert(value["error"], Fault))
        return value

    async def tokenize(self, request: Tokenize) -> bytes:
        """Return the token ids of a text, or of a chat as the template renders it."""
        fields = decode_any(request.body)
        self._check_tools(fields)
        if _has_images(fields):
            raise BadRequest(
                "messages: how many tokens an image takes is known when it is computed; count without images",
                param="messages",
                code="vision_unsupported",
            )
        text = await self._render(fields) if "messages" in fields else fields.get("content")
        if not isinstance(text, str):
            raise BadRequest("content: expected a string, or messages", param="content")
        answer = await self._ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return encode({"tokens": answer["tokens"], "count": len(answer["tokens"])})

    async def _render(self, fields: dict[str, Any]) -> str:
        picked: dict[str, Any] = {name: fields[name] for name in ("messages", "tools") if name in fields}
        picked["chat_template_kwargs"] = self._template_kwargs(fields)
        prompt: str = (await self._ask("/apply-template", picked))["prompt"]
        return prompt

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask llama.cpp's own listener, which is on loopback and behind a random key, for what the binding lacks."""
        headers = {"authorization": f"Bearer {self._api_key}"}
        async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
            answer = await client.post(self._server.listening_address + path, content=encode(body), headers=headers)
        value: dict[str, Any] = decode_any(answer.content)
        if "error" in value:
            raise fault_of(msgspec.convert(value["error"], Fault))
        return value

    async def close(self) -> None:
        """Nothing to do: the process ends next, and with it every byte that the model took."""


def _translator(request: Generate, fields: dict[str, Any]) -> Translator | None:
    if request.kind == "completion" and fields.get("logprobs") is not None:
        return LegacyLogprobs()
    return OneCall() if fields.get("tools") and fields.get("parallel_tool_calls") is False else None


def _read(spec: EngineSpec, options: Options) -> Model:
    """Return what *spec* loads, which of a vocabulary is the header of its file alone. Raises LoadError."""
    return Model(Weights(gguf.read_header(Path(spec.path)), 0)) if spec.vocabulary_only else read_model(spec, options)


def _has_images(fields: dict[str, Any]) -> bool:
    """Whether any message has an image."""
    contents = (message.get("content") for message in fields.get("messages", ()))
    return any(part.get("type") == "image_url" for each in contents if isinstance(each, list) for part in each)


def _stops_of(fields: dict[str, Any]) -> list[str]:
    stop = fields.get("stop") or []
    return [stop] if isinstance(stop, str) else stop


def _finished(request_id: str, answer: dict[str, Any]) -> Finished:
    return Finished(request_id, "stop", Usage(prompt_tokens=answer.get("usage", {}).get("prompt_tokens", 0)), Timings())


def _probability(logit: float) -> float:
    """Return the logistic function of *logit*, as rerankers are trained for."""
    return 0.5 * (1.0 + math.tanh(0.5 * logit))
