from __future__ import annotations

import json
from pathlib import Path

import pytest

from cortex.cli.init.caches import FoundModel, find_models


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def file(path: Path, size: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF" + bytes(size - 4))
    return path


def found(home: Path, **env: str) -> list[FoundModel]:
    return find_models(env, home)


def test_nothing_is_found_where_nothing_is(home: Path) -> None:
    assert found(home) == []


def test_a_gguf_of_the_hubs_cache_is_found_in_its_newest_snapshot(home: Path) -> None:
    snapshot = home / ".cache/huggingface/hub/models--Qwen--Qwen3-8B-GGUF/snapshots/abc"
    weights = file(snapshot / "Qwen3-8B-Q4_K_M.gguf")
    file(snapshot / "mmproj-Qwen3-8B.gguf")

    assert found(home) == [FoundModel("qwen3-8b", weights, 64, "Hugging Face", "Q4_K_M")]


@pytest.mark.parametrize("key", ["HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"])
def test_the_hubs_cache_is_where_its_own_programs_put_it(home: Path, key: str) -> None:
    below = {"HF_HOME": "hub", "HF_HUB_CACHE": "", "XDG_CACHE_HOME": "huggingface/hub"}[key]
    file(home / "elsewhere" / below / "models--org--small/snapshots/a/small.gguf")

    assert [model.id for model in found(home, **{key: str(home / "elsewhere")})] == ["small"]


def test_safetensors_are_one_model_of_a_directory(home: Path) -> None:
    snapshot = home / ".cache/huggingface/hub/models--org--Thing/snapshots/abc"
    file(snapshot / "model.safetensors", 100)
    (snapshot / "config.json").write_text("{}")

    [model] = found(home)

    assert (model.id, model.path, model.size_bytes, model.is_gguf) == ("thing", snapshot, 100, False)


def test_a_repository_without_a_model_is_passed_over(home: Path) -> None:
    (home / ".cache/huggingface/hub/models--org--tokenizer-only/snapshots/abc").mkdir(parents=True)

    assert found(home) == []


def test_shards_are_one_model_and_a_broken_set_is_none(home: Path) -> None:
    models = home / ".lmstudio/models/org"
    first = file(models / "Whole-GGUF/whole-Q8_0-00001-of-00002.gguf", 40)
    file(models / "Whole-GGUF/whole-Q8_0-00002-of-00002.gguf", 30)
    file(models / "Broken-GGUF/broken-00001-of-00002.gguf")

    assert found(home) == [FoundModel("whole", first, 70, "LM Studio", "Q8_0")]


def test_two_quantisations_of_one_model_have_names_of_their_own(home: Path) -> None:
    for quant in ("Q4_K_M", "Q8_0"):
        file(home / f".lmstudio/models/org/Qwen3-8B-GGUF/Qwen3-8B-{quant}.gguf")

    assert [model.id for model in found(home)] == ["qwen3-8b", "qwen3-8b-q8_0"]


def ollama(home: Path, name: str, tag: str, digest: str) -> Path:
    models = home / ".ollama/models"
    manifest = models / "manifests/hub/library" / name / tag
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": 64}
    other = {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:ff", "size": 1}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [other, layer]}))
    return file(models / f"blobs/sha256-{digest}")


@pytest.mark.parametrize(("tag", "name"), [("latest", "qwen3"), ("8b", "qwen3-8b")])
def test_what_ollama_pulled_is_named_by_its_tag_and_found_by_its_hash(home: Path, tag: str, name: str) -> None:
    blob = ollama(home, "qwen3", tag, "aa")

    assert found(home) == [FoundModel(name, blob, 64, "Ollama")]


def test_a_manifest_that_cannot_be_read_or_has_no_blob_is_passed_over(home: Path) -> None:
    ollama(home, "gone", "latest", "aa").unlink()
    (home / ".ollama/models/manifests/hub/library/broken").mkdir()
    (home / ".ollama/models/manifests/hub/library/broken/latest").write_text("{")

    assert found(home) == []


def test_one_file_that_two_programs_share_is_one_model(home: Path) -> None:
    weights = file(home / ".lmstudio/models/org/small/small.gguf")
    link = home / ".cache/huggingface/hub/models--org--small/snapshots/a/small.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(weights)

    assert len(found(home)) == 1
