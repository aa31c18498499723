"""What `neuron validate` tries of a model, on one that is simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from cortex.core.errors import CortexError
from cortex.core.model_spec import ModelSpec
from cortex.neuron.config import Models, NeuronConfig
from cortex.neuron.validating import Step, validate


def steps_of(tmp_path: Path, **options: Any) -> list[Step]:
    spec = ModelSpec(id="m", engine="simulated", options={"load_seconds": 0, "memory_mb": 1, **options})
    config = NeuronConfig(models=Models(cache=str(tmp_path)))
    steps: list[Step] = []
    anyio.run(validate, spec, config, steps.append)
    return steps


def test_a_sound_model_goes_through_every_step(tmp_path: Path) -> None:
    steps = steps_of(tmp_path, tokens_per_second=2000)

    assert [step.name for step in steps] == ["start", "load", "ask", "leave", "ask again", "unload"]
    assert "24 tokens" in steps[2].seen
    assert all(step.seconds >= 0 for step in steps)


def test_a_model_that_does_not_load_says_why(tmp_path: Path) -> None:
    with pytest.raises(CortexError, match="no luck"):
        steps_of(tmp_path, fail_load="no luck")
