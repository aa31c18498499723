"""Find the models that other programs have on this machine: Hugging Face's cache, LM Studio's, Ollama's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from cortex.neuron.sources import local
from cortex.neuron.sources.choose import quant_of, shard_names
from cortex.neuron.sources.errors import SourceError

_PROJECTORS = ("mmproj", "imatrix")
_MODEL_LAYER = "application/vnd.ollama.image.model"
_UNFIT = re.compile(r"[^a-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model on this machine: what to call it, where its file or directory is, how large, and who has it."""

    id: str
    path: Path
    size_bytes: int
    owner: str
    quant: str | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether it is one file that llama.cpp reads; else it is a directory of safetensors."""
        return self.path.is_file()


class _Layer(msgspec.Struct):
    mediaType: str = ""
    digest: str = ""
    size: int = 0


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


_manifest = msgspec.json.Decoder(_Manifest)


def find_models(env: Mapping[str, str], home: Path) -> list[FoundModel]:
    """Return the models in all caches, by name; of two with one name the second has its quantisation in it."""
    found = [*_hugging_face(env, home), *_lm_studio(home), *_ollama(env, home)]
    return sorted(_distinct(found), key=lambda model: model.id)


def _distinct(found: Iterable[FoundModel]) -> Iterator[FoundModel]:
    taken: set[str] = set()
    seen: set[Path] = set()
    for model in found:
        if (file := model.path.resolve()) in seen:
            continue
        names = [model.id, f"{model.id}-{(model.quant or 'gguf').lower()}"]
        names += [f"{names[1]}-{count}" for count in range(2, 100)]
        name = next(name for name in names if name not in taken)
        taken.add(name)
        seen.add(file)
        yield replace(model, id=name)


def _hugging_face(env: Mapping[str, str], home: Path) -> Iterator[FoundModel]:
    """Yield what is in the hub's cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache."""
    cache = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "huggingface") / "hub"
    directory = Path(env.get("HF_HUB_CACHE") or cache)
    for repository in _listed(directory):
        if repository.name.startswith("models--"):
            name = repository.name.rpartition("--")[2]
            snapshots = sorted(_listed(repository / "snapshots"), key=lambda path: path.stat().st_mtime)
            if snapshots:
                yield from _in_directory(snapshots[-1], name, "Hugging Face")


def _lm_studio(home: Path) -> Iterator[FoundModel]:
    for models in (home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"):
        for publisher in _listed(models):
            for repository in _listed(publisher):
                yield from _in_directory(repository, repository.name, "LM Studio")


def _in_directory(directory: Path, name: str, owner: str) -> Iterator[FoundModel]:
    """Yield each GGUF model in *directory*, or its one model of safetensors."""
    files = sorted(file for file in directory.rglob("*.gguf") if not any(word in file.name for word in _PROJECTORS))
    for file in files:
        shards = [file.with_name(shard) for shard in shard_names(file.name)]
        if file == shards[0] and all(shard.exists() for shard in shards):
            size = sum(shard.stat().st_size for shard in shards)
            yield FoundModel(_id(name), file, size, owner, quant_of(file.name))
    if not files:
        try:
            whole = local.find(directory, None)
        except (SourceError, OSError):
            return
        yield FoundModel(_id(name), directory, whole.size_bytes, owner)


def _ollama(env: Mapping[str, str], home: Path) -> Iterator[FoundModel]:
    """Yield what Ollama has pulled: a manifest per tag, whose layer of the model's type is a GGUF file by its hash."""
    for models in (
        Path(env.get("OLLAMA_MODELS") or home / ".ollama" / "models"),
        Path("/usr/share/ollama/.ollama/models"),
    ):
        for tag in _files(models / "manifests"):
            try:
                layers = _manifest.decode(tag.read_bytes()).layers
            except (OSError, msgspec.MsgspecError):
                continue
            for layer in layers:
                blob = models / "blobs" / layer.digest.replace(":", "-")
                if layer.mediaType == _MODEL_LAYER and blob.is_file():
                    label = "" if tag.name == "latest" else f"-{tag.name}"
                    yield FoundModel(_id(f"{tag.parent.name}{label}"), blob, layer.size, "Ollama")


def _id(name: str) -> str:
    """Return *name* as one says it: lower case, without what only tells the format."""
    plain = name.lower().removesuffix("-gguf")
    return _UNFIT.sub("-", plain).strip("-._") or "model"


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir())
    except OSError:
        return []


def _files(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory):
        yield from (Path(parent) / name for name in sorted(names))
