"""A model's own vocabulary and chat template over weights of nothing: a GGUF file to count tokens with.

llama.cpp can be told to load a vocabulary alone, its binding cannot. It reads the vocabulary from `tokenizer.*` and
`general.name` and from nothing else, so that over any other model those give the same tokens; the one written here has
a single layer, 32 wide, all zeros, and takes a few megabytes however large the model is.

Source: llama.cpp, `llama_vocab::impl::load` and the tensors of its architecture `llama`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from cortex.engines.base import LoadError
from cortex.engines.gguf import GgufHeader

CONTEXT_TOKENS = 64
_WIDTH, _ALIGNMENT = 32, 32
_U32, _F32, _STRING = 4, 6, 8
_TYPE_F32, _TYPE_Q4_0 = 0, 2
_Q4_0_ROW_BYTES = 18

_MODEL = {"block_count": 1, "context_length": CONTEXT_TOKENS, "embedding_length": _WIDTH, "feed_forward_length": _WIDTH}
_VECTORS = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
_MATRICES = tuple(f"blk.0.{name}" for name in ("attn_q", "attn_k", "attn_v", "attn_output")) + tuple(
    f"blk.0.{name}" for name in ("ffn_gate", "ffn_up", "ffn_down")
)


def write_vocabulary(source: Path, header: GgufHeader, target: Path) -> None:
    """Write to *target* a model with the vocabulary and template of *source*, whose *header* was read.

    Raises LoadError if it has no vocabulary.
    """
    if not header.vocabulary_size:
        raise LoadError(f"{source.name} has no vocabulary to count tokens with")
    tensors, data_bytes = _tensors(header.vocabulary_size)
    kept = [span for key, span in header.spans.items() if key.startswith("tokenizer.") or key == "general.name"]
    own = _own_metadata()
    with source.open("rb") as model, target.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(_VECTORS) + len(_MATRICES) + 1, len(kept) + len(own)))
        for entry in own:
            file.write(entry)
        for start, end in kept:
            model.seek(start)
            file.write(model.read(end - start))
        file.write(tensors)
        file.truncate(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT + data_bytes)  # zeros that take no room on a disk


def _own_metadata() -> list[bytes]:
    heads = {"attention.head_count": 1}
    return [
        _text("general.architecture") + struct.pack("<I", _STRING) + _text("llama"),
        _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", _F32, 1e-5),
        *(_text(f"llama.{key}") + struct.pack("<II", _U32, value) for key, value in (_MODEL | heads).items()),
    ]


def _tensors(vocabulary_size: int) -> tuple[bytes, int]:
    """Return the descriptions of all tensors, and how many bytes of data they have together."""
    shapes: Mapping[str, tuple[int, ...]] = {
        **dict.fromkeys(_VECTORS, (_WIDTH,)),
        **dict.fromkeys(_MATRICES, (_WIDTH, _WIDTH)),
    }
    described, offset = b"", 0
    for name, shape in shapes.items():
        described += _tensor(name, shape, _TYPE_F32, offset)
        offset += 4 * _WIDTH ** len(shape)
    described += _tensor("token_embd", (_WIDTH, vocabulary_size), _TYPE_Q4_0, offset)
    return described, offset + _Q4_0_ROW_BYTES * vocabulary_size


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return _text(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()
