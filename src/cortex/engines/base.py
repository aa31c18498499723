"""The seam every engine implements; `engines.host` drives it, the contract tests hold every engine to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import ClassVar, Protocol

import anyio

from cortex.core.errors import BadRequest
from cortex.wire.engine_api import Chunk, EngineSpec, Estimate, Finished, Generate, Progress, ReplicaInfo, Tokenize

OnProgress = Callable[[str, int, int], None]
"""`on_progress(stage, done, total)`: how far a load is; called from any thread."""

Event = Progress | Chunk | Finished


class LoadError(Exception):
    """The model cannot be loaded; the message says what is wrong with it."""


class Engine(Protocol):
    """One loaded model.

    Everything runs on the event loop of the engine process and must not block it: an engine that computes in this
    process does so on threads.
    """

    name: ClassVar[str]
    version: str
    device_kinds: tuple[str, ...]

    def warm_up(self) -> None:
        """Import what a load will need; called from a thread, in a process that waits for a model."""
        ...

    async def estimate(self, spec: EngineSpec) -> Estimate:
        """Return the bytes that *spec* will take on each device, without loading it. Raises LoadError."""
        ...

    async def load(self, spec: EngineSpec, on_progress: OnProgress) -> ReplicaInfo:
        """Load *spec* and return what it became. Raises LoadError; called once.

        Of `vocabulary_only` just as much is loaded as `tokenize` needs, on no device, and nothing else is asked for.
        """
        ...

    def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Yield the events of one request: prefill Progress, Chunks in the hub dialect, one Finished last.

        The chunks of a chat are `chat.completion.chunk` objects, of a completion `text_completion` objects, always as
        of a stream; the last of a choice that a stop string of the client's ended names it as `stop_reason`. An
        embedding is one Chunk with the whole answer; a rerank is one with `{"scores": […]}`, between 0 and 1 and in the
        order of the documents. None carries usage: Finished does. A request that is at fault raises BadRequest (or
        another RequestError). Closing the generator aborts the request, and returns only when its slot is free; so does
        cancelling the task that iterates. At most `slots` are iterated at once.
        """
        ...

    async def tokenize(self, request: Tokenize) -> bytes:
        """Return `{"tokens": […], "count": n}` of what a prompt reads as. Raises BadRequest.

        The body is `{"content": text}`, or `messages` with whatever else of a chat its template renders.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; no request is running."""
        ...


def check_options(spec: EngineSpec, known: dict[str, type | tuple[type, ...]]) -> None:
    """Raise LoadError if *spec* has an engine option that is not *known*, or of another type."""
    for key, value in spec.options.items():
        if key not in known:
            names = ", ".join(sorted(known))
            raise LoadError(f"options.{key} is not an option of engine {spec.engine!r}; known: {names}")
        expected = known[key]
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            names = " or ".join(t.__name__ for t in (expected if isinstance(expected, tuple) else (expected,)))
            raise LoadError(f"options.{key} = {value!r}: expected {names}")


def unsupported(capability: str, model: str) -> BadRequest:
    """Return the error for a request that this replica was not loaded for."""
    return BadRequest(f"{model} was not loaded for {capability}", param="model", code="capability_not_supported")


async def sheltered(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Yield *events*. Whoever leaves early, or is cancelled, leaves when they are closed: their slot is free then."""
    try:
        async for event in events:
            yield event
    finally:
        with anyio.CancelScope(shield=True):
            await events.aclose()
