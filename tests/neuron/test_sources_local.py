from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import pytest

from cortex.neuron.sources import ModelFiles, SourceError, fetch
from cortex.neuron.sources.local import find


def fetch_now(source: str, quant: str | None = None) -> ModelFiles:
    work = partial(fetch, source, quant=quant, cache=Path("unused"), on_progress=lambda *_: None, offline=True)
    return anyio.run(work)


def write(directory: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        (directory / name).write_bytes(b"x" * size)


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, {"m.gguf": 7})

    files = fetch_now(str(tmp_path / "m.gguf"))

    assert files == ModelFiles(tmp_path / "m.gguf", 7, str(tmp_path / "m.gguf"))


def test_paths_are_relative_to_the_working_directory_or_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"m.gguf": 1})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert fetch_now("./m.gguf").path == tmp_path / "m.gguf"
    assert fetch_now("~/m.gguf").path == tmp_path / "m.gguf"


def test_any_shard_stands_for_the_whole_model(tmp_path: Path) -> None:
    write(tmp_path, {"m-00001-of-00002.gguf": 3, "m-00002-of-00002.gguf": 4})

    files = fetch_now(str(tmp_path / "m-00002-of-00002.gguf"))

    assert files.path == tmp_path / "m-00001-of-00002.gguf"
    assert files.size_bytes == 7


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"m-00001-of-00002.gguf": 3})

    with pytest.raises(SourceError, match=r"there is no m-00002-of-00002\.gguf"):
        fetch_now(str(tmp_path / "m-00001-of-00002.gguf"))


def test_the_quant_chooses_in_a_directory(tmp_path: Path) -> None:
    write(tmp_path, {"m-Q4_0.gguf": 3, "m-Q8_0.gguf": 5})

    assert fetch_now(str(tmp_path), "q8_0") == ModelFiles(tmp_path / "m-Q8_0.gguf", 5, str(tmp_path))
    with pytest.raises(SourceError, match="choose one with quant: it has Q4_0, Q8_0"):
        fetch_now(str(tmp_path))


def test_a_directory_of_safetensors_is_loaded_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path, {"model.safetensors": 9, "config.json": 2})

    assert fetch_now(str(tmp_path)) == ModelFiles(tmp_path, 9, str(tmp_path))


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere does not exist on this node") as caught:
        fetch_now(str(tmp_path / "nowhere"))

    assert caught.value.should_retry is False
    assert caught.value.code == "model_load_failed"


def test_a_single_file_must_be_gguf(tmp_path: Path) -> None:
    write(tmp_path, {"model.safetensors": 1})

    with pytest.raises(SourceError, match="give the directory"):
        fetch_now(str(tmp_path / "model.safetensors"))


def test_a_projector_beside_the_only_model_is_its_own(tmp_path: Path) -> None:
    write(tmp_path, {"m-00001-of-00002.gguf": 3, "m-00002-of-00002.gguf": 4, "mmproj-m.gguf": 2})

    assert fetch_now(str(tmp_path / "m-00001-of-00002.gguf")).beside == {"mmproj": tmp_path / "mmproj-m.gguf"}
    assert fetch_now(str(tmp_path)).beside == {"mmproj": tmp_path / "mmproj-m.gguf"}


def test_a_projector_among_several_models_is_nobodys(tmp_path: Path) -> None:
    write(tmp_path, {"m.gguf": 3, "other.gguf": 4, "mmproj.gguf": 2})

    assert fetch_now(str(tmp_path / "m.gguf")).beside == {}


def test_a_file_named_by_its_hash_is_a_gguf_by_its_first_bytes(tmp_path: Path) -> None:
    """So are the blobs of a cache that other programs fill."""
    blob = tmp_path / "sha256-abc"
    blob.write_bytes(b"GGUF" + bytes(60))

    assert find(blob, None).path == blob
