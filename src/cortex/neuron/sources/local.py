"""Model files that are on the node already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cortex.neuron.sources.choose import choose_files, choose_projector, is_only_model, shard_names
from cortex.neuron.sources.errors import SourceError
from cortex.neuron.sources.files import ModelFiles

_MAGIC = b"GGUF"


def find(path: Path, quant: str | None) -> ModelFiles:
    """Return the model at *path*, a `.gguf` file or a directory in which *quant* chooses. Raises SourceError."""
    path = Path(os.path.abspath(path.expanduser()))
    if path.is_dir():
        return find_in(path, quant, origin=str(path))
    if not path.exists():
        raise SourceError(f"{path} does not exist on this node; the source must be a .gguf file or a directory")
    if path.suffix.lower() != ".gguf" and not _starts_as_gguf(path):
        raise SourceError(f"{path} is not a .gguf file; of a safetensors model give the directory")
    shards = [path.with_name(name) for name in shard_names(path.name)] or [path]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        raise SourceError(
            f"{path.parent}: of the {len(shards)} shards of {path.name} there is no {', '.join(missing[:3])}"
        )
    return ModelFiles(shards[0], _size_bytes(shards), str(path)).with_projector(_projector_of(path))


def _starts_as_gguf(path: Path) -> bool:
    """Whether *path* is a GGUF by its first bytes, as a file that is named by its hash is."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def find_in(directory: Path, quant: str | None, *, origin: str) -> ModelFiles:
    """Return the one model in *directory*. Raises SourceError that lists what there is."""
    choice = choose_files(_names_in(directory), quant, origin)
    files = ModelFiles(directory / choice.load, _size_bytes(directory / name for name in choice.weights), origin)
    return files.with_projector(directory / choice.projector if choice.projector else None)


def _projector_of(path: Path) -> Path | None:
    """Return the vision projector beside the file *path*; it may be another's where several models are kept."""
    names = [each.name for each in path.parent.iterdir()]
    found = choose_projector(names, PurePosixPath()) if is_only_model(names) else None
    return path.with_name(found) if found else None


def _names_in(directory: Path) -> Iterator[str]:
    """Yield the files of *directory* and below, relative to it; hidden directories are not a model's."""
    for parent, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        yield from ((Path(parent) / name).relative_to(directory).as_posix() for name in names)


def _size_bytes(paths: Iterator[Path] | list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
