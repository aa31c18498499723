"""Find the files of a model among those that are on this node already; nothing is fetched."""

from __future__ import annotations

from pathlib import Path

from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import SIMULATED_ENGINE
from cortex.neuron.config import NeuronConfig
from cortex.neuron.sources import ModelFiles, NotCached, fetch


async def cached_files(spec: ModelSpec, config: NeuronConfig, purpose: str) -> ModelFiles:
    """Return the files of *spec*; a simulated model needs none. Raises NotCached naming the *purpose*, SourceError."""
    if spec.engine_name == SIMULATED_ENGINE:
        return ModelFiles(Path(), 0, SIMULATED_ENGINE)
    try:
        return await fetch(
            spec.source_name,
            quant=spec.quant,
            cache=config.cache,
            on_progress=lambda *_: None,
            hub_endpoint=config.models.hub_endpoint,
            offline=True,
        )
    except NotCached:
        raise NotCached(f"{spec.source_name} is not on this node yet, and nothing is fetched for {purpose}") from None
