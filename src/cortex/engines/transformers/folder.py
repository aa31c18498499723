"""A folder of safetensors as it lies on disk: what its own files say of the model. Nothing is computed here."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cortex.core.errors import BadRequest
from cortex.engines.base import LoadError
from cortex.wire.json import decode_any

MAX_HEADER_BYTES = 100 << 20
DTYPE_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_GENERATES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


@dataclass(frozen=True, slots=True)
class Folder:
    """What the files say. *config* is that of the text part of a model that has several."""

    path: Path
    config: dict[str, Any]
    architecture: str
    generation: dict[str, Any]
    tensors: dict[str, tuple[str, int]] = field(repr=False)
    modules: tuple[str, ...] = ()
    pooling: dict[str, Any] = field(default_factory=dict)
    max_sequence: int | None = None

    @property
    def generates(self) -> bool:
        """Whether the model writes text; else it is one that embeds."""
        return not self.modules and any(name in self.architecture for name in _GENERATES)

    @property
    def context_length(self) -> int | None:
        """The tokens that the model was trained on, if it says."""
        known = (self.max_sequence, self.config.get("max_position_embeddings"), self.config.get("n_positions"))
        return next((value for value in known if isinstance(value, int) and value > 0), None)

    @property
    def stored_dtype(self) -> str:
        """The name of what the weights are computed in unless told otherwise."""
        named = self.config.get("dtype") or self.config.get("torch_dtype")
        return named if named in _ELEMENT_BYTES else "float32"

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every token that ends an answer by the model's own files, in order."""
        found: list[int] = []
        for source in (self.generation, self.config):
            value = source.get("eos_token_id")
            found += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)]
        return tuple(dict.fromkeys(found))

    def weights_bytes(self, dtype: str) -> int:
        """Return what all weights take in memory, computed in *dtype* (`auto` is as stored)."""
        each = _ELEMENT_BYTES[self.stored_dtype if dtype == "auto" else dtype]
        return sum(
            bytes_ if kind not in _FLOATS else bytes_ // DTYPE_BYTES[kind] * each
            for kind, bytes_ in self.tensors.values()
        )

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Return what one token of context takes in the cache, over all layers and heads."""
        heads = _number(self.config, "num_attention_heads", "n_head")
        hidden = _number(self.config, "hidden_size", "n_embd")
        head_bytes = _number(self.config, "head_dim", default=hidden // heads) * self.element_bytes(dtype)
        kv_heads = _number(self.config, "num_key_value_heads", default=heads)
        return 2 * _number(self.config, "num_hidden_layers", "n_layer") * kv_heads * head_bytes

    def element_bytes(self, dtype: str) -> int:
        """Return the bytes of one number as it is computed with."""
        return _ELEMENT_BYTES[self.stored_dtype if dtype == "auto" else dtype]

    def splits_over(self, ranks: int) -> bool:
        """Whether the attention heads, and those of the keys, can be dealt out evenly to *ranks*."""
        heads = (self.config.get(key) for key in ("num_attention_heads", "num_key_value_heads"))
        return not any(isinstance(count, int) and count % ranks for count in heads)

    @property
    def vocabulary_size(self) -> int:
        """How many logits the model gives."""
        return _number(self.config, "vocab_size")


def read_folder(path: Path) -> Folder:
    """Return what the folder at *path* holds. Raises LoadError naming the file that is missing or wrong."""
    if not path.is_dir():
        raise LoadError(
            f"{path.name} is not a folder: engine 'transformers' loads a folder of .safetensors with its config.json; "
            "a .gguf file is for engine 'llamacpp'"
        )
    whole = _json(path / "config.json")
    text = whole.get("text_config")
    config = {**whole, **text} if isinstance(text, dict) else whole
    modules = _modules(path)
    pooling = _optional(path / next((m for m in modules if "Pooling" in m), "1_Pooling") / "config.json")
    longest = _optional(path / "sentence_bert_config.json").get("max_seq_length")
    return Folder(
        path=path,
        config=config,
        architecture=" ".join(map(str, whole.get("architectures") or ())),
        generation=_optional(path / "generation_config.json"),
        tensors=dict(_tensors(path)),
        modules=modules,
        pooling=pooling,
        max_sequence=longest if isinstance(longest, int) else None,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = decode_any(path.read_bytes())
    except FileNotFoundError:
        raise LoadError(f"{path.parent.name} has no {path.name}") from None
    except (OSError, BadRequest) as error:
        raise LoadError(f"{path.parent.name}/{path.name} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise LoadError(f"{path.parent.name}/{path.name}: expected a JSON object")
    return value


def _optional(path: Path) -> dict[str, Any]:
    return _json(path) if path.exists() else {}


def _modules(path: Path) -> tuple[str, ...]:
    """Return the folders of a sentence-transformers model's steps after the first, as their kinds' names."""
    if not (path / "modules.json").exists():
        return ()
    try:
        steps = decode_any((path / "modules.json").read_bytes())
        return tuple(str(step["path"] or step["type"].rpartition(".")[2]) for step in steps[1:])
    except (OSError, BadRequest, KeyError, TypeError) as error:
        raise LoadError(f"{path.name}/modules.json cannot be read: {error}") from None


def _tensors(path: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield each tensor's type and bytes by name, from the headers alone."""
    files = _weight_files(path)
    for file in files:
        header, data_bytes = _header(file)
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            yield name, _checked(tensor, name, data_bytes, file)


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.exists():
        named = _json(index).get("weight_map")
        if not isinstance(named, dict):
            raise LoadError(f"{path.name}/{index.name} has no weight_map")
        files = [path / str(name) for name in sorted(set(named.values()))]
        if outside := next((file for file in files if file.parent != path), None):
            raise LoadError(f"{path.name}/{index.name} names {outside.name!r} outside of its folder")
    else:
        files = sorted(path.glob("*.safetensors"))
    if not files:
        raise LoadError(f"{path.name} has no .safetensors file")
    return files


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors *file* and the bytes of data after it. Raises LoadError."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise LoadError(f"{file.name} says that its header has {length} bytes, and the file has {size}")
            header = decode_any(stream.read(length))
    except (OSError, struct.error, BadRequest) as error:
        raise LoadError(f"{file.name} is not a safetensors file: {error}") from None
    if not isinstance(header, dict):
        raise LoadError(f"{file.name} is not a safetensors file: its header is no object")
    return header, size - 8 - length


def _checked(tensor: Any, name: str, data_bytes: int, file: Path) -> tuple[str, int]:
    try:
        kind, shape, (start, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        expected = math.prod(shape) * DTYPE_BYTES.get(kind, 1)
        sound = 0 <= start <= end <= data_bytes and (kind not in DTYPE_BYTES or end - start == expected)
    except (KeyError, TypeError, ValueError):
        raise LoadError(f"{file.name}: tensor {name[:100]!r} is not described as safetensors are") from None
    if not sound:
        raise LoadError(
            f"{file.name}: tensor {name[:100]!r} does not fit its file, which is cut short or damaged: fetch it again"
        )
    return str(kind), int(end - start)


def _number(config: dict[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    if default is None:
        raise LoadError(f"config.json has no {names[0]}")
    return default
