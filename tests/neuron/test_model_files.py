from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from cortex.core.model_spec import ModelSpec
from cortex.neuron.config import Models, NeuronConfig
from cortex.neuron.model_files import cached_files
from cortex.neuron.sources import ModelFiles, NotCached, SourceError


def find(spec: ModelSpec, tmp_path: Path) -> ModelFiles:
    config = NeuronConfig(models=Models(cache=str(tmp_path), hub_endpoint="http://127.0.0.1:9"))
    return anyio.run(cached_files, spec, config, "a rainy day")


def test_a_file_on_the_node_is_found(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")

    assert find(ModelSpec(id="m", source=str(tmp_path / "m.gguf")), tmp_path).path == tmp_path / "m.gguf"


def test_a_simulated_model_needs_no_files(tmp_path: Path) -> None:
    assert find(ModelSpec(id="m", engine="simulated"), tmp_path).size_bytes == 0


def test_what_is_not_here_is_not_fetched_and_the_refusal_says_for_what(tmp_path: Path) -> None:
    with pytest.raises(NotCached, match=r"hf:org/m is not on this node yet, and nothing is fetched for a rainy day"):
        find(ModelSpec(id="m", source="hf:org/m"), tmp_path)


def test_files_that_options_name_are_found_by_their_source(tmp_path: Path) -> None:
    for name in ("m", "draft", "a", "b", "mmproj-m"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    draft, one, other = (str(tmp_path / f"{name}.gguf") for name in ("draft", "a", "b"))
    options = {"draft": draft, "lora": [one, {"source": other, "scale": 0.5}], "slots": 2}
    files = find(ModelSpec(id="m", source=str(tmp_path / "m.gguf"), options=options), tmp_path)

    assert files.beside == {source: Path(source) for source in (draft, one, other)}


def test_a_file_that_options_name_and_that_is_not_here_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")

    with pytest.raises(SourceError, match=r"gone\.gguf does not exist"):
        find(ModelSpec(id="m", source=str(tmp_path / "m.gguf"), options={"draft": "/gone.gguf"}), tmp_path)
