"""Files of a model on disk: what an engine is given, and how the copies are kept whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import msgspec
from anyio import from_thread

OnProgress = Callable[[str, int, int], None]
"""Called with a stage (`download`, `verify`, `extract`), bytes done and bytes in all, 0 if unknown."""

CHUNK_BYTES = 1 << 20
PROJECTOR = "mmproj"
"""The name of a model's own vision projector among the files beside it."""


@dataclass(frozen=True)
class ModelFiles:
    """What an engine loads: *path* is a `.gguf` (of a split one the first shard) or a directory of safetensors.

    *size_bytes* counts the weights only; *origin* says where they came from, as exactly as is known. *beside* are other
    files that the engine may want: the model's own vision projector as `mmproj`, and others by their source.
    """

    path: Path
    size_bytes: int
    origin: str
    beside: Mapping[str, Path] = field(default_factory=dict)

    def with_projector(self, projector: Path | None) -> ModelFiles:
        """Return the same with the model's vision projector, if it has one."""
        return self if projector is None else replace(self, beside={**self.beside, PROJECTOR: projector})


class FileRecord(msgspec.Struct, frozen=True):
    """One file as it was when it was verified; *sha256* is None where the origin gave none."""

    size: int
    sha256: str | None = None


def is_safe_name(name: str) -> bool:
    """Whether *name* from outside stays inside the directory it is joined to, on any system."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and not any(c in name for c in "\\:\0")


def are_intact(directory: Path, files: Mapping[str, FileRecord]) -> bool:
    """Whether each of *files* is in *directory* with its size; cheap enough for every load."""
    try:
        return all((directory / name).stat().st_size == record.size for name, record in files.items())
    except OSError:
        return False


def sha256_of(path: Path, on_bytes: Callable[[int], None]) -> str:
    """Return the hash of the file at *path* in hex; *on_bytes* hears of each chunk. Call it in a worker thread."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            from_thread.check_cancelled()
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write *value* to *path* at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(value)))
    part.replace(path)
