"""Bring all files that a model needs: its weights, and those that its options name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import SIMULATED_ENGINE
from cortex.neuron.config import NeuronConfig
from cortex.neuron.sources import ModelFiles, NotCached, OnProgress, fetch


async def fetch_files(spec: ModelSpec, config: NeuronConfig, on_progress: OnProgress, *, offline: bool) -> ModelFiles:
    """Return the files of *spec*, fetched unless they are here; a simulated model needs none. Raises SourceError."""
    if spec.engine_name == SIMULATED_ENGINE:
        return ModelFiles(Path(), 0, SIMULATED_ENGINE)

    async def one(source: str, quant: str | None) -> ModelFiles:
        return await fetch(
            source,
            quant=quant,
            cache=config.cache,
            on_progress=on_progress,
            hub_endpoint=config.models.hub_endpoint,
            offline=offline,
        )

    files = await one(spec.source_name, spec.quant)
    named = {source: (await one(source, None)).path for source in spec.option_sources}
    return replace(files, beside={**files.beside, **named})


async def cached_files(spec: ModelSpec, config: NeuronConfig, purpose: str) -> ModelFiles:
    """Return the files of *spec* among those that are here already. Raises NotCached naming the *purpose*, SourceError.

    Nothing is fetched.
    """
    try:
        return await fetch_files(spec, config, lambda *_: None, offline=True)
    except NotCached:
        raise NotCached(f"{spec.source_name} is not on this node yet, and nothing is fetched for {purpose}") from None
