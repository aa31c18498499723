"""Safetensors through Hugging Face's transformers, split over ranks where one device is not enough.

Nothing heavy is imported until a model is loaded: an estimate reads headers, and counting tokens needs the tokenizer
alone. Run on CPU by this project's tests, with one rank and with several; on GPUs it was not run.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anyio

from cortex.engines.base import Event, LoadError, OnProgress, sheltered, unsupported
from cortex.engines.transformers.estimate import context_of, estimate
from cortex.engines.transformers.folder import Folder, read_folder
from cortex.engines.transformers.group import Group, GroupFailed
from cortex.engines.transformers.messages import LoadShard, SelfCheck, ShardPlan
from cortex.engines.transformers.options import (
    DEFAULT_CONTEXT_TOKENS,
    MAX_RANKS,
    Options,
    batch_of,
    is_gpu,
    ranks_of,
    read_options,
    threads_of,
)
from cortex.wire.engine_api import EngineSpec, Estimate, Generate, ReplicaInfo, Tokenize
from cortex.wire.json import decode_any

if TYPE_CHECKING:
    from cortex.engines.transformers.embedding import Embedding
    from cortex.engines.transformers.generating import Generating
    from cortex.engines.transformers.member import Member
    from cortex.engines.transformers.prompts import Prompts

GROUP_BROKE_STATUS = 71
JOIN_SECONDS, LOAD_SECONDS = 120.0, 7200.0
# A load that fails with its group says so itself; one that hangs in a collective is ended.
LAST_WORDS_SECONDS = 5.0
EMBEDDINGS_HINT = "set options = { embeddings = true } in its spec to load it for them"
MATRYOSHKA_HINT = "options = { matryoshka = true } says that the first numbers of its vectors are vectors too"
EMBEDDING_BATCH_TOKENS = 4096


class Transformers:
    """One folder of safetensors in this process, which is rank 0 of its group."""

    name: ClassVar[str] = "transformers"

    def __init__(self) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self.version = f"transformers {version('transformers')}, torch {version('torch')}"
        self.device_kinds = device_kinds()
        self._model = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers")
        self._options = Options()
        self._prompts: Prompts | None = None
        self._group: Group | None = None
        self._generating: Generating | None = None
        self._embedding: Embedding | None = None
        self._is_loading = True

    def warm_up(self) -> None:
        """Import torch and what else takes seconds."""
        for part in ("embedding", "generating", "member", "prompts"):
            importlib.import_module(f"cortex.engines.transformers.{part}")

    async def estimate(self, spec: EngineSpec) -> Estimate:
        """Return weights, cache and working memory of each rank, from the headers alone."""
        options = read_options(spec)
        folder = await anyio.to_thread.run_sync(read_folder, Path(spec.path))
        return Estimate(estimate(spec, folder, options, context_of(spec, folder, DEFAULT_CONTEXT_TOKENS)))

    async def load(self, spec: EngineSpec, on_progress: OnProgress) -> ReplicaInfo:
        """Form the group, check it, and load every rank's share."""
        self._options, self._model = read_options(spec), spec.model
        on_progress("header", 0, 0)
        folder = await anyio.to_thread.run_sync(read_folder, Path(spec.path))
        self._prompts = await anyio.to_thread.run_sync(_read_prompts, folder.path)
        context = context_of(spec, folder, DEFAULT_CONTEXT_TOKENS)
        ranks = 1 if spec.vocabulary_only else ranks_of(spec, self._options)
        if not spec.vocabulary_only:
            generates = folder.generates and not self._options.embeddings
            plan = self._plan(spec, folder, context, ranks, generates=generates)
            member, check = await self._form(plan, on_progress)
            on_progress("weights", 0, 0)
            await self._load_shards(plan, member, folder)
            print(f"loaded on {ranks} ranks; {check}", flush=True)
        self._is_loading = False
        return self._info(spec, folder, context, ranks)

    def _plan(self, spec: EngineSpec, folder: Folder, context: int, ranks: int, *, generates: bool) -> ShardPlan:
        _check_split(folder, ranks)
        if ranks > 1 and not generates:
            raise LoadError("embeddings are computed on one device: set devices = 1")
        return ShardPlan(
            path=str(folder.path),
            dtype=self._options.dtype,
            attention=self._options.attention,
            device="cuda" if any(map(is_gpu, spec.devices)) else "cpu",
            threads=threads_of(self._options, ranks),
            ranks=ranks,
            context=context,
            slots=self._options.slots,
            batch=batch_of(spec, self._options),
            prefix_cache=self._options.prefix_cache,
            generates=generates,
        )

    async def _form(self, plan: ShardPlan, on_progress: OnProgress) -> tuple[Member, str]:
        """Return rank 0 as a member of a group that has been checked, and what the check saw. Raises LoadError."""
        if plan.ranks > 1:
            on_progress("group", 0, plan.ranks)
            # On this thread, which lives as long as the process: the kernel ends the other ranks with it.
            self._group = Group(plan.ranks, self._died)
        formed: tuple[Member, str] = await self._compute(self._join, plan)
        return formed

    def _join(self, plan: ShardPlan) -> tuple[Member, str]:
        from cortex.engines.transformers.member import Member
        from cortex.engines.transformers.runner import Runner

        self._runner = Runner(lambda news: self._tell(news), self._options.step_seconds)
        member = Member(self._runner.choose)
        member.use_threads(plan.threads)
        if self._group is None:
            return member, "alone"
        order = self._group.join_order(0, plan.device, plan.threads)
        id_ = self._group.tell(order, JOIN_SECONDS)
        member.join(order)
        self._group.settle(id_)
        id_ = self._group.tell(SelfCheck(0), JOIN_SECONDS)
        sums = {0: member.self_check(), **self._group.settle(id_)}
        if set(sums.values()) != {float(plan.ranks)}:
            raise LoadError(f"the group's self-check failed: of {plan.ranks} ranks each saw {sums}")
        return member, f"self-check: every rank sees {plan.ranks}"

    async def _load_shards(self, plan: ShardPlan, member: Member, folder: Folder) -> None:
        await self._compute(self._load_shard, plan, member)
        assert self._prompts is not None
        if plan.generates:
            from cortex.engines.transformers.generating import Generating

            self._generating = Generating(
                self._model, self.version, folder, self._prompts, plan.context, self._options.slots
            )
            self._tell = self._generating.tell
            self._generating.start(self._runner, member, self._group, self._thread)
        else:
            from cortex.engines.transformers.embedding import Embedding

            assert member.shard is not None
            self._embedding = Embedding(
                self._model, member.shard, self._prompts, folder, plan.context, EMBEDDING_BATCH_TOKENS, self._thread
            )

    def _load_shard(self, plan: ShardPlan, member: Member) -> None:
        id_ = self._group.tell(LoadShard(0, plan), LOAD_SECONDS) if self._group is not None else 0
        member.load(plan, 0)
        if self._group is not None:
            self._group.settle(id_)
            self._group.serving()

    async def _compute(self, work: Any, *arguments: Any) -> Any:
        """Return what *work* returns on the thread that computes. A group that broke of it is a LoadError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except (GroupFailed, RuntimeError) as error:
            words = str(error) if self._group is None else self._group.failure_after(str(error))
            raise LoadError(words) from error

    def _died(self, reason: str) -> None:
        """End this process with its group: half a group computes nothing, and the neuron starts a new one."""
        print(reason, file=sys.stderr, flush=True)
        if not self._is_loading:
            os._exit(GROUP_BROKE_STATUS)
        timer = threading.Timer(LAST_WORDS_SECONDS, os._exit, (GROUP_BROKE_STATUS,))
        timer.daemon = True
        timer.start()

    def _info(self, spec: EngineSpec, folder: Folder, context: int, ranks: int) -> ReplicaInfo:
        assert self._prompts is not None
        notes = list(self._prompts.notes)
        trained = folder.context_length
        if trained and context > trained:
            notes.append(f"context {context} is beyond the {trained} tokens that the model was trained on")
        elif trained and spec.context is None and context < trained:
            notes.append(f"context {context} of the {trained} that the model was trained on: set context for more")
        if ranks > 1:
            notes.append(f"split over {ranks} ranks; the sum over them was checked before serving")
        return ReplicaInfo(
            engine=self.name,
            engine_version=self.version,
            context_tokens=context,
            slots=self._options.slots,
            capabilities=() if spec.vocabulary_only else self._capabilities(),
            notes=tuple(notes),
            template_variables=tuple(sorted(self._prompts.variables)),
            hints={"embeddings": EMBEDDINGS_HINT} if self._generating is not None else {},
        )

    def _capabilities(self) -> tuple[str, ...]:
        assert self._prompts is not None
        if self._embedding is not None:
            return ("embeddings",)
        chat = ("chat",) if self._prompts.template is not None else ()
        return (*chat, "completions", *(("tools",) if chat and self._prompts.knows_tools else ()))

    def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Run one request; see the protocol."""
        return sheltered(self._events(request))

    def _events(self, request: Generate) -> AsyncGenerator[Event, None]:
        if request.kind == "embedding" and self._embedding is not None:
            return self._embedding.embed(request, shortens=self._options.matryoshka, hint=MATRYOSHKA_HINT)
        if request.kind in ("chat", "completion") and self._generating is not None:
            return self._generating.generate(request)
        wanted = {"embedding": f"embeddings: {EMBEDDINGS_HINT}", "rerank": "rerank"}
        raise unsupported(wanted.get(request.kind, "text generation"), self._model)

    async def tokenize(self, request: Tokenize) -> bytes:
        """Return the token ids of a text, or of a chat as the template renders it."""
        assert self._prompts is not None
        return await anyio.to_thread.run_sync(self._prompts.tokenize, decode_any(request.body))

    async def close(self) -> None:
        """Let the group go; this process ends next, and with it every byte that the model took."""
        if self._generating is not None:
            await self._generating.close()
        if self._group is not None:
            await anyio.to_thread.run_sync(self._group.close)


def _read_prompts(path: Path) -> Prompts:
    from cortex.engines.transformers.prompts import Prompts

    return Prompts(path)


def _check_split(folder: Folder, ranks: int) -> None:
    """Raise LoadError if the heads of the model cannot be dealt out evenly to *ranks*."""
    if not folder.splits_over(ranks):
        fitting = ", ".join(str(count) for count in range(1, MAX_RANKS + 1) if folder.splits_over(count))
        raise LoadError(f"the heads of this model cannot be dealt out to {ranks} devices: it takes {fitting}")


def device_kinds() -> tuple[str, ...]:
    """Return the kinds of devices that the installed torch was built for, as its own version file says."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("torch is not installed")
    file = importlib.util.spec_from_file_location(
        "_torch_version", Path(spec.submodule_search_locations[0], "version.py")
    )
    assert file is not None
    assert file.loader is not None
    built = importlib.util.module_from_spec(file)
    file.loader.exec_module(built)  # a few assignments; the whole of torch takes seconds
    return ("cpu", *(("rocm",) if getattr(built, "hip", None) else ("cuda",) if getattr(built, "cuda", None) else ()))
