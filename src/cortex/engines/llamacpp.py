"""GGUF models through llama.cpp, by the `xllamacpp` binding: CPU, CUDA, ROCm, Vulkan, Metal.

The binding computes on threads of its own and calls back with JSON bytes, which go to the client as they are. Inside
we always stream, with prefill progress on, since that is what makes a request cancellable at every step.

Run on CPU by this project's tests; the device selection for GPUs was not run on one.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx2
import msgspec
import xllamacpp

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.engines import gguf, tool_templates
from cortex.engines.base import Event, LoadError, OnProgress, check_options, unsupported
from cortex.engines.forced_tools import ForcedCall, forced_call
from cortex.engines.json_schemas import check_schema
from cortex.engines.legacy_logprobs import LegacyLogprobs
from cortex.wire.engine_api import (
    Chunk,
    Device,
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

OPTIONS: dict[str, type | tuple[type, ...]] = {"slots": int, "threads": int, "batch": int, "embeddings": bool}
DEFAULT_SLOTS = 4
DEFAULT_CONTEXT_TOKENS = 8192
# A prefill step is what an abort waits for. On a CPU larger batches gain nothing (measured: 134 tok/s at 128 and 2048).
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 128, 2048
ALL_LAYERS = 999


# An embedding's input that is too long has no error type of its own.
_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large to process.*current batch size: (\d+)")


class EngineError(Exception):
    """llama.cpp failed in a way that is not the request's fault."""


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _PromptProgress(msgspec.Struct):
    total: int
    cache: int
    processed: int


class _Timings(msgspec.Struct):
    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0


class _Fault(msgspec.Struct):
    message: str = ""
    code: int = 500
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _Peek(msgspec.Struct):
    """What we read of each object that llama.cpp calls back with."""

    choices: list[_Choice] = []
    created: int = 0
    prompt_progress: _PromptProgress | None = None
    timings: _Timings | None = None
    error: _Fault | None = None


_peek = msgspec.json.Decoder(_Peek)


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


class _Tally:
    """What one request adds up to: of *n* choices to each prompt, whose tokens count once."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._created: int | None = None
        self._ends: list[_Timings] = []
        self.reason: str | None = None

    def stamped(self, data: bytes, created: int) -> bytes:
        """Return the chunk *data* as created when the first one was; the binding stamps each with its own second."""
        if self._created is None:
            self._created = created
        if created == self._created:
            return data
        # Inside a text the quotes are escaped, so this can only be the chunk's own key.
        return data.replace(b'"created":%d' % created, b'"created":%d' % self._created, 1)

    def add(self, end: _Timings | None, reason: str) -> None:
        self._ends.append(end or _Timings())
        self.reason = self.reason or reason

    def finished(self, request_id: str) -> Finished:
        if self.reason is None:
            raise EngineError("llama.cpp ended the answer without a finish reason")
        prompt = sum(e.cache_n + e.prompt_n for e in self._ends) // self._n
        usage = Usage(prompt, sum(e.predicted_n for e in self._ends), self._ends[0].cache_n)
        timings = Timings(
            prefill_ms=max(e.prompt_ms for e in self._ends),
            decode_ms=max(e.predicted_ms for e in self._ends),
            cached_tokens=usage.cached_tokens,
        )
        return Finished(request_id, self.reason, usage, timings)


class LlamaCpp:
    """One GGUF model in this process."""

    name: ClassVar[str] = "llamacpp"

    def __init__(self) -> None:
        self.version = f"xllamacpp {xllamacpp.__version__}"
        self.device_kinds = _device_kinds()
        self._server: Any = None
        self._template_has_tools = False
        self._embeds = False
        self._api_key = secrets.token_hex(16)
        self._info: ReplicaInfo | None = None
        self._model = ""

    async def estimate(self, spec: EngineSpec) -> Estimate:
        """Return weights, KV cache and compute buffers, spread evenly over the devices."""
        header = await anyio.to_thread.run_sync(gguf.read_header, Path(spec.path))
        total = gguf.estimate_bytes(
            header, gguf.weights_bytes(Path(spec.path)), _context_of(spec, header) * _slots_of(spec)
        )
        share = -(-total // len(spec.devices))
        return Estimate({device.index: share for device in spec.devices})

    async def load(self, spec: EngineSpec, on_progress: OnProgress) -> ReplicaInfo:
        """Check the file's header, then load it."""
        check_options(spec, OPTIONS)
        on_progress("header", 0, 0)
        header = await anyio.to_thread.run_sync(gguf.read_header, Path(spec.path))
        context, slots = _context_of(spec, header), _slots_of(spec)
        notes = _notes(spec, header)
        self._embeds = _embeds(spec, header)
        params = _params(spec, header, context, slots, self._api_key)
        template = header.chat_template
        self._template_has_tools = tool_templates.knows_tools(template)
        if not self._template_has_tools and template is not None and tool_templates.can_be_widened(template):
            params.chat_template = tool_templates.widened(template)
            self._template_has_tools = True
            notes.append("the model's chat template has no tools: Hermes' tool format is used when a request has them")
        on_progress("weights", 0, 0)
        await anyio.sleep(0.02)  # let that out: the binding holds the interpreter until the weights are loaded
        try:
            self._server = await anyio.to_thread.run_sync(xllamacpp.Server, params)
        except (RuntimeError, ValueError) as error:
            raise LoadError(f"llama.cpp could not load {Path(spec.path).name}: {error}") from None
        self._threads = ThreadPoolExecutor(slots + 1, thread_name_prefix="llamacpp")
        self._model = spec.model
        self._info = ReplicaInfo(
            engine=self.name,
            engine_version=self.version,
            context_tokens=context,
            slots=slots,
            capabilities=self._capabilities(template),
            notes=tuple(notes),
        )
        return self._info

    def _capabilities(self, template: str | None) -> tuple[str, ...]:
        if self._embeds:
            return ("embeddings",)
        tools = ("tools",) if self._template_has_tools else ()
        return ("chat", "completions", *tools) if template else ("completions",)

    async def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Run one request; see the protocol."""
        if request.kind == "embedding":
            events = self._embed(request)
        elif self._embeds:
            raise unsupported("text generation", self._model)
        else:
            events = self._generate(request)
        try:
            async for event in events:
                yield event
        finally:
            with anyio.CancelScope(shield=True):
                await events.aclose()

    async def _generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        assert self._info is not None
        fields = decode_any(request.body)
        if request.kind == "chat":
            self._check_chat(fields)
        if fields.get("n", 1) > self._info.slots:
            raise BadRequest(f"n: this replica has {self._info.slots} slots, one for each choice", param="n")
        forced = forced_call(fields) if request.kind == "chat" else None
        if forced is not None:
            fields = {**forced.sampling, "prompt": await self._render(fields), "json_schema": forced.schema}
        completes = request.kind == "completion" or forced is not None
        handler = self._server.handle_completions if completes else self._server.handle_chat_completions
        call = _Call(handler, encode({**_native(fields), "stream": True, "return_progress": True}), self._threads)
        tally = _Tally(fields.get("n", 1))
        legacy = LegacyLogprobs() if request.kind == "completion" and fields.get("logprobs") is not None else None
        try:
            async for data in call:
                for event in self._read(data, request.id, tally, forced or legacy):
                    yield event
        except ValueError as error:
            raise BadRequest(_first_line(error)) from None
        finally:
            await call.stop()
        yield tally.finished(request.id)

    def _check_chat(self, fields: dict[str, Any]) -> None:
        if fields.get("tools") and fields.get("tool_choice") != "none" and not self._template_has_tools:
            raise BadRequest(f"tools: the chat template of {self._model} has no tools", param="tools")
        if fields.get("response_format", {}).get("type") == "json_schema":
            check_schema(
                fields["response_format"]["json_schema"]["schema"], "response_format.json_schema.schema", enforced=True
            )
        forced = fields.get("tool_choice") not in (None, "auto", "none")
        for at, tool in enumerate(fields.get("tools") or ()):
            check_schema(tool["function"].get("parameters") or {}, f"tools[{at}].function.parameters", enforced=forced)

    def _read(
        self, data: bytes, request_id: str, tally: _Tally, translator: ForcedCall | LegacyLogprobs | None
    ) -> list[Event]:
        """Return what one callback means."""
        peek = _peek.decode(data)
        if peek.error is not None:
            raise _fault(peek.error)
        if peek.prompt_progress is not None:
            at = peek.prompt_progress
            return [Progress(request_id, "prefill", at.processed, at.total, at.cache)]
        data = tally.stamped(data, peek.created)
        reason = next((c.finish_reason for c in peek.choices if c.finish_reason), None)
        if reason is not None:
            data = encode({k: v for k, v in decode_any(data).items() if k not in ("timings", "usage")})
            tally.add(peek.timings, reason)
        if translator is not None:
            chunks = translator.translate(decode_any(data))
            tally.reason = translator.finish_reason or tally.reason
            return [Chunk(request_id, encode(chunk)) for chunk in chunks]
        return [Chunk(request_id, data)] if peek.choices else []

    async def _embed(self, request: Generate) -> AsyncGenerator[Event, None]:
        if not self._embeds:
            raise unsupported("embeddings (set options = { embeddings = true } in its spec)", self._model)
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._threads, self._server.handle_embeddings, request.body)
        try:
            answer = await asyncio.shield(done)
        except ValueError as error:
            raise BadRequest(_first_line(error)) from None
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([done])  # it cannot be stopped, and its slot is free only when it is over
        value = decode_any(answer) if isinstance(answer, bytes) else answer
        if "error" in value:
            raise _fault(msgspec.convert(value["error"], _Fault))
        tokens = value.get("usage", {}).get("prompt_tokens", 0)
        yield Chunk(request.id, encode({**value, "model": self._model}))
        yield Finished(request.id, "stop", Usage(prompt_tokens=tokens), Timings())

    async def tokenize(self, request: Tokenize) -> bytes:
        """Return the token ids of a text, or of a chat as the template renders it."""
        fields = decode_any(request.body)
        text = await self._render(fields) if "messages" in fields else fields.get("content")
        if not isinstance(text, str):
            raise BadRequest("content: expected a string, or messages", param="content")
        answer = await self._ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return encode({"tokens": answer["tokens"], "count": len(answer["tokens"])})

    async def _render(self, fields: dict[str, Any]) -> str:
        picked: dict[str, Any] = {name: fields[name] for name in ("messages", "tools") if name in fields}
        prompt: str = (await self._ask("/apply-template", picked))["prompt"]
        return prompt

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask llama.cpp's own listener, which is on loopback and behind a random key, for what the binding lacks."""
        headers = {"authorization": f"Bearer {self._api_key}"}
        async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
            answer = await client.post(self._server.listening_address + path, content=encode(body), headers=headers)
        value: dict[str, Any] = decode_any(answer.content)
        if "error" in value:
            raise _fault(msgspec.convert(value["error"], _Fault))
        return value

    async def close(self) -> None:
        """Nothing to do: the process ends next, and with it every byte that the model took."""


def _fault(fault: _Fault) -> Exception:
    if fault.type == "exceed_context_size_error":
        return ContextLengthExceeded(fault.n_prompt_tokens, fault.n_ctx)
    if (too_long := _TOO_LONG.match(fault.message)) is not None:
        return ContextLengthExceeded(int(too_long[1]), int(too_long[2]))
    if 400 <= fault.code < 500:
        return BadRequest(fault.message)
    return EngineError(fault.message)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["the request was refused by llama.cpp"])[0]


def _native(fields: dict[str, Any]) -> dict[str, Any]:
    """Return *fields* in llama.cpp's spelling where it differs from OpenAI's."""
    return {**fields, "top_k": 0} if fields.get("top_k") == -1 else fields


def _embeds(spec: EngineSpec, header: gguf.GgufHeader) -> bool:
    return bool(spec.options.get("embeddings", header.is_embedding_model))


def _slots_of(spec: EngineSpec) -> int:
    slots: int = spec.options.get("slots", DEFAULT_SLOTS)
    if not 1 <= slots <= 256:
        raise LoadError(f"options.slots = {slots}: expected 1 to 256")
    return slots


def _context_of(spec: EngineSpec, header: gguf.GgufHeader) -> int:
    """Return the tokens that one request may have: asked for, or what the model was trained on, within reason."""
    return spec.context or min(header.context_length or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)


def _notes(spec: EngineSpec, header: gguf.GgufHeader) -> list[str]:
    trained, context = header.context_length, _context_of(spec, header)
    if trained and context > trained:
        return [f"context {context} is beyond the {trained} tokens that the model was trained on"]
    if trained and spec.context is None and context < trained:
        return [f"context {context} of the {trained} that the model was trained on: set context for more"]
    return []


def default_threads() -> int:
    """Return the threads to compute with: one core stays free, since one busy neighbour costs most of the speed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, cores - 1)


def _params(spec: EngineSpec, header: gguf.GgufHeader, context: int, slots: int, api_key: str) -> Any:
    on_gpu = any(device.kind not in ("cpu", "simulated") for device in spec.devices)
    params = xllamacpp.CommonParams()
    params.model.path = spec.path
    params.model_alias = {spec.model}
    params.n_parallel = slots
    params.n_ctx = context * slots
    params.n_batch = spec.options.get("batch", GPU_BATCH_TOKENS if on_gpu else CPU_BATCH_TOKENS)
    params.n_ubatch = min(params.n_batch, 512)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = spec.options.get("threads", default_threads())
    params.cache_ram_mib = 0
    if not on_gpu:
        # Mapped weights count as free memory to the system, and two models would be judged to fit into the same bytes.
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.fit_params = False  # what fits is decided before a load, and said; never trimmed behind the spec's back
    params.ctx_shift = False
    params.use_jinja = True
    params.api_keys = [api_key]
    params.ui = False
    params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.n_threads_http = 2
    params.verbosity = 0
    params.embedding = _embeds(spec, header)
    if params.embedding:
        params.n_batch = params.n_ubatch = context  # an embedding is computed in one step
        if header.pooling_type is None:
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    _place(params, spec.devices, on_gpu)
    return params


def _device_kinds() -> tuple[str, ...]:
    """Return the kinds of devices that this build of llama.cpp computes on; Vulkan drives the GPUs of either maker."""
    names = [str(device["name"]).lower() for device in xllamacpp.get_device_info()]
    kinds = {"cuda": ("cuda",), "rocm": ("rocm",), "hip": ("rocm",), "vulkan": ("cuda", "rocm")}
    found = {kind for name in names for prefix, own in kinds.items() if name.startswith(prefix) for kind in own}
    return ("cpu", *sorted(found))


def _place(params: Any, devices: tuple[Device, ...], on_gpu: bool) -> None:
    """Put the layers where *devices* say. The neuron lets this process see only the GPUs it was given."""
    if not on_gpu:
        params.n_gpu_layers = 0
        return
    gpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_GPU
    if not any(device["type"] == gpu for device in xllamacpp.get_device_info()):
        names = ", ".join(device.name for device in devices)
        raise LoadError(
            f"the model was placed on {names}, and this build of xllamacpp has no GPU backend: install the wheel for "
            "your GPU (see the xllamacpp project for its CUDA, ROCm and Vulkan wheels), or place the model on the CPU"
        )
    params.n_gpu_layers = ALL_LAYERS
    if len(devices) > 1:
        total = sum(device.memory_free_bytes for device in devices) or 1
        params.tensor_split = [device.memory_free_bytes / total for device in devices]
