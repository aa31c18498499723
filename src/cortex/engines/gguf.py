"""What a GGUF file says of itself, read without trusting it.

llama.cpp answers a bad file with an error that names no cause, and past parsers have believed its sizes. Here every
count is bounded and every length is held against the file's size before anything is read.

Sources: ggml docs/gguf.md (format), gguf-py `GGML_QUANT_SIZES` (block sizes), llama.cpp (which files it takes).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeGuard

from cortex.engines.base import LoadError

MAX_KEYS = 100_000
MAX_TENSORS = 100_000
MAX_NAME_BYTES = 1024
MAX_STRING_BYTES = 64 << 20
"""A string; and all the strings that are kept, together."""
MAX_ELEMENTS = 2_000_000
"""Strings walked over and array elements kept, over all metadata; the largest vocabularies have under a million."""
MAX_KEPT_ELEMENTS = 1024
"""Longer arrays, and arrays of strings, are recorded by their length only."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110)},
    **{22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8)},
    **{29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17)},
}
"""ggml type -> elements a block, bytes a block."""
RANK_POOLING = 4
# Encoders: llama.cpp gives them no KV cache, and they can do nothing but embed.
_ENCODERS = frozenset(
    {"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert"}
    | {"gemma-embedding", "t5encoder"}
)
_SHARD = re.compile(r"-(?P<at>\d{5})-of-(?P<count>\d{5})\.gguf$")
_LAYER = re.compile(rb"blk\.(\d{1,5})\.")


@dataclass(frozen=True, slots=True)
class Skipped:
    """An array that was not kept: only its *length* is known."""

    length: int


Scalar = int | float | bool | str
Value = Scalar | tuple[int | float | bool, ...] | Skipped


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of one GGUF file. Properties raise LoadError where the file has a value of the wrong type.

    `spans` says where in the file each key of the metadata starts, and where its value ends; `layer_bytes` has what
    each layer's tensors take, by its number.
    """

    version: int
    architecture: str
    metadata: dict[str, Value]
    tensor_count: int
    tensor_bytes: int
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    layer_bytes: Mapping[int, int] = field(default_factory=dict)

    @property
    def context_length(self) -> int | None:
        """The context that the model was trained for, in tokens."""
        return self._whole("context_length")

    @property
    def block_count(self) -> int:
        """The number of layers; 0 where the file does not say."""
        return self._whole("block_count") or 0

    @property
    def embedding_length(self) -> int:
        """The width of the residual stream; 0 where the file does not say."""
        return self._whole("embedding_length") or 0

    @property
    def feed_forward_length(self) -> int:
        """The width of a layer's widest feed-forward step, of all the experts that a token sees; 0 if it is unsaid."""
        dense = max(self._per_layer("feed_forward_length") or (0,))
        return max(dense, (self._whole("expert_used_count") or 0) * (self._whole("expert_feed_forward_length") or 0))

    @property
    def head_count(self) -> int:
        """The number of attention heads; of the widest layer where layers differ."""
        return max(self._per_layer("attention.head_count") or (0,))

    @property
    def head_counts_kv(self) -> tuple[int, ...]:
        """The number of KV heads of each layer; as many as attention heads where the file does not say."""
        kv = self._per_layer("attention.head_count_kv")
        return kv if kv is not None else self._per_layer("attention.head_count") or ()

    @property
    def key_length(self) -> int:
        """The size of a head's key."""
        given = self._whole("attention.key_length")
        return self.embedding_length // max(self.head_count, 1) if given is None else given

    @property
    def value_length(self) -> int:
        """The size of a head's value."""
        given = self._whole("attention.value_length")
        return self.embedding_length // max(self.head_count, 1) if given is None else given

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens of the vocabulary; 0 where the file does not say."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.length if isinstance(tokens, Skipped) else self._whole("vocab_size") or 0

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of a chat."""
        template = self.metadata.get("tokenizer.chat_template")
        return template if isinstance(template, str) else None

    @property
    def pooling_type(self) -> int | None:
        """How token embeddings become one: llama.cpp's 0 none, 1 mean, 2 CLS, 3 last, 4 rank."""
        return self._whole("pooling_type")

    @property
    def ranks(self) -> bool:
        """Whether the model says how well a document answers a query."""
        return self.pooling_type == RANK_POOLING

    @property
    def is_encoder(self) -> bool:
        """Whether the architecture cannot generate text."""
        return self.architecture in _ENCODERS

    @property
    def is_embedding_model(self) -> bool:
        """Whether the model was made to embed: an encoder, or one that says how to pool."""
        return self.is_encoder or bool(self.pooling_type)

    @property
    def projector(self) -> str | None:
        """The kind of a vision projector; None of any other file, and of one that only hears."""
        if self.architecture != "clip" or self.metadata.get("clip.has_vision_encoder") is not True:
            return None
        kind = self.metadata.get("clip.vision.projector_type") or self.metadata.get("clip.projector_type")
        return kind if isinstance(kind, str) else "mlp"

    @property
    def split_count(self) -> int:
        """The number of files that the model is split into."""
        return max(self._integer("split.count") or 1, 1)

    def _whole(self, key: str) -> int | None:
        return self._integer(f"{self.architecture}.{key}")

    def _integer(self, key: str) -> int | None:
        value = self.metadata.get(key)
        if value is None or _is_whole(value):
            return value
        raise LoadError(f"bad GGUF: {key} = {value!r:.60} is not a whole number")

    def _per_layer(self, key: str) -> tuple[int, ...] | None:
        """Return a count of each layer, whether the file has one for all or an array."""
        name = f"{self.architecture}.{key}"
        value = self.metadata.get(name)
        if value is None:
            return None
        if isinstance(value, tuple) and all(_is_whole(each) for each in value):
            return tuple(int(each) for each in value)
        if _is_whole(value) and self.block_count <= MAX_KEPT_ELEMENTS:
            return (value,) * self.block_count
        raise LoadError(f"bad GGUF: {name} = {value!r:.60} for {self.block_count} layers")


def read_header(path: Path) -> GgufHeader:
    """Return the header of the GGUF file at *path*, which is whole as far as its header can tell.

    Raises LoadError: not GGUF, an unsupported version, corrupt, or truncated.
    """
    try:
        with path.open("rb", buffering=1 << 18) as file:
            return _Reader(file, path.stat().st_size).header()
    except OSError as error:
        raise LoadError(f"{path.name}: {error.strerror}") from None
    except LoadError as error:
        raise LoadError(f"{path.name}: {error}") from None


def weights_bytes(path: Path) -> int:
    """Return the size of the model at *path*, over all shards where it is split. Raises LoadError if one is missing."""
    total = 0
    for shard in shards_of(path):
        try:
            total += shard.stat().st_size
        except OSError as error:
            raise LoadError(f"{shard.name}: {error.strerror}") from None
    return total


def shards_of(path: Path) -> tuple[Path, ...]:
    """Return the files of the model that *path* belongs to, named as llama.cpp's gguf-split names them."""
    match = _SHARD.search(path.name)
    if match is None or not 1 <= int(match["at"]) <= int(match["count"]):
        return (path,)
    stem, count = path.name[: match.start()], int(match["count"])
    return tuple(path.with_name(f"{stem}-{at:05d}-of-{count:05d}.gguf") for at in range(1, count + 1))


class _Reader:
    """Reads forward, never past the end, and never more than it was told to expect."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0
        self._elements = 0
        self._kept_bytes = 0

    def header(self) -> GgufHeader:
        version, tensors, keys = self._preamble()
        metadata: dict[str, Value] = {}
        spans: dict[str, tuple[int, int]] = {}
        for _ in range(keys):
            start = self._at
            key = self._string("a key")
            if key in metadata:
                raise LoadError(f"bad GGUF: the key {key!r:.80} comes twice")
            metadata[key] = self._value(key)
            spans[key] = start, self._at
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise LoadError("bad GGUF: general.architecture is missing")
        tensor_bytes, layer_bytes = self._tensor_bytes(tensors, _alignment(metadata))
        return GgufHeader(version, architecture, metadata, tensors, tensor_bytes, spans, layer_bytes)

    def _preamble(self) -> tuple[int, int, int]:
        if self._size < 4 or self._take(4) != b"GGUF":
            raise LoadError("not a GGUF file")
        (version,) = self._unpack("I")
        if version & 0xFFFF == 0 and version:
            raise LoadError("a big-endian GGUF, which is not supported")
        if version not in (2, 3):
            raise LoadError(f"GGUF version {version} is not supported; expected 2 or 3")
        tensors, keys = self._unpack("QQ")
        if tensors > MAX_TENSORS or keys > MAX_KEYS:
            raise LoadError(f"bad GGUF: it claims {tensors} tensors and {keys} keys")
        return version, tensors, keys

    def _value(self, key: str) -> Value:
        (kind,) = self._unpack("I")
        if kind == _ARRAY:
            return self._array(key)
        if kind == _STRING:
            return self._string(key)
        if kind not in _SCALARS:
            raise LoadError(f"bad GGUF: {key!r:.80} has the unknown type {kind}")
        return self._scalars(kind, 1)[0]

    def _array(self, key: str) -> Value:
        kind, length = self._unpack("IQ")
        if kind == _STRING:
            self._count(key, length)
            for _ in range(length):
                self._skip(self._string_bytes(key))
            return Skipped(length)
        if kind not in _SCALARS:
            raise LoadError(f"bad GGUF: {key!r:.80} is an array of the unknown type {kind}")
        if length <= MAX_KEPT_ELEMENTS:
            self._count(key, length)
            return self._scalars(kind, length)
        self._skip(length * struct.calcsize(f"<{_SCALARS[kind]}"))
        return Skipped(length)

    def _tensor_bytes(self, count: int, alignment: int) -> tuple[int, dict[int, int]]:
        """Return the bytes of all tensors and of each layer's, after checking that each lies within the file."""
        layers: dict[int, int] = {}
        total = end = 0
        known = True
        for at in range(count):
            layer, blocks, kind, offset = self._tensor(at)
            size = blocks * BLOCKS[kind][1] if kind in BLOCKS else 0
            known = known and kind in BLOCKS
            total += size
            if layer is not None:
                layers[layer] = layers.get(layer, 0) + size
            end = max(end, offset + size)
        data = -(-self._at // alignment) * alignment
        if count and data + end > self._size:
            raise LoadError(f"truncated: needs {data + end} bytes, has {self._size}")
        return (total, layers) if known or not count else (self._size - data, {})

    def _tensor(self, at: int) -> tuple[int | None, int, int, int]:
        """Return the layer, if it is of one, the number of blocks, the ggml type and the offset of the next tensor."""
        name = f"tensor {at}"
        size = self._string_bytes(name)
        if size > MAX_NAME_BYTES:
            raise LoadError(f"bad GGUF: {name} has a name of {size} bytes")
        layer = _LAYER.match(self._take(size))
        (dimensions,) = self._unpack("I")
        if dimensions > 4:
            raise LoadError(f"bad GGUF: {name} has {dimensions} dimensions")
        shape = self._unpack(f"{dimensions}Q")
        kind, offset = self._unpack("IQ")
        per_block = BLOCKS.get(kind, (1, 0))[0]
        if shape and shape[0] % per_block:
            raise LoadError(f"bad GGUF: {name} has rows of {shape[0]} elements, in blocks of {per_block}")
        return int(layer[1]) if layer else None, math.prod(shape) // per_block, kind, offset

    def _string(self, what: str) -> str:
        size = self._string_bytes(what)
        self._kept_bytes += size
        if self._kept_bytes > MAX_STRING_BYTES:
            raise LoadError(f"bad GGUF: more than {MAX_STRING_BYTES} bytes of strings")
        return self._take(size).decode(errors="replace")

    def _string_bytes(self, what: str) -> int:
        (size,) = self._unpack("Q")
        if size > MAX_STRING_BYTES:
            raise LoadError(f"bad GGUF: {what:.80} has a string of {size} bytes")
        return int(size)

    def _count(self, key: str, length: int) -> None:
        """Charge *length* elements to the budget: it bounds time and memory however many keys there are."""
        self._elements += length
        if self._elements > MAX_ELEMENTS:
            raise LoadError(f"bad GGUF: {key!r:.80} has an array of {length} elements")

    def _scalars(self, kind: int, count: int) -> tuple[int | float | bool, ...]:
        return self._unpack(f"{count}{_SCALARS[kind]}")

    def _unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(f"<{layout}", self._take(struct.calcsize(f"<{layout}")))

    def _take(self, size: int) -> bytes:
        self._reserve(size)
        data = self._file.read(size)
        if len(data) != size:  # the file shrank while it was read
            raise LoadError(f"truncated: needs {self._at} bytes or more, has less")
        return data

    def _skip(self, size: int) -> None:
        self._reserve(size)
        self._file.seek(size, 1)

    def _reserve(self, size: int) -> None:
        self._at += size
        if self._at > self._size:
            raise LoadError(f"truncated: needs {self._at} bytes or more, has {self._size}")


def _alignment(metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", 32)
    if not _is_whole(value) or value == 0 or value & (value - 1):
        raise LoadError(f"bad GGUF: general.alignment = {value!r:.60} is not a power of two")
    return value


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
