"""GGUF files of a few kilobytes that llama.cpp loads: an encoder with chance for weights, to embed or to rank."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

WORDS = ("the", "sea", "is", "wide", "a", "ship", "sails", "far", "bread", "bakes")
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_WIDTH, _CONTEXT, _ALIGNMENT = 32, 64, 32
RANK, MEAN = 4, 1


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _value(kind: int, of: Any) -> bytes:
    if kind == _STRING:
        return _text(of)
    if kind == _ARRAY:
        item, items = of
        return struct.pack("<IQ", item, len(items)) + b"".join(_value(item, each) for each in items)
    return struct.pack("<" + {_U32: "I", _I32: "i", _F32: "f", _BOOL: "?"}[kind], of)


def write_encoder(path: Path, pooling: int) -> Path:
    """Write a BERT of one layer that pools as *pooling* says, and return *path*."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"\u2581{word}" for word in WORDS)]
    metadata: dict[str, tuple[int, Any]] = {
        "general.architecture": (_STRING, "bert"),
        "bert.block_count": (_U32, 1),
        "bert.context_length": (_U32, _CONTEXT),
        "bert.embedding_length": (_U32, _WIDTH),
        "bert.feed_forward_length": (_U32, _WIDTH),
        "bert.attention.head_count": (_U32, 2),
        "bert.attention.layer_norm_epsilon": (_F32, 1e-12),
        "bert.attention.causal": (_BOOL, False),
        "bert.pooling_type": (_U32, pooling),
        "tokenizer.ggml.model": (_STRING, "bert"),
        "tokenizer.ggml.tokens": (_ARRAY, (_STRING, tokens)),
        "tokenizer.ggml.token_type": (_ARRAY, (_I32, [3, 2, 3, 3, *[1] * len(WORDS)])),
        "tokenizer.ggml.token_type_count": (_U32, 2),
        "tokenizer.ggml.padding_token_id": (_U32, 0),
        "tokenizer.ggml.unknown_token_id": (_U32, 1),
        "tokenizer.ggml.cls_token_id": (_U32, 2),
        "tokenizer.ggml.bos_token_id": (_U32, 2),
        "tokenizer.ggml.seperator_token_id": (_U32, 3),
    }
    if pooling == RANK:
        metadata["bert.classifier.output_labels"] = (_ARRAY, (_STRING, ["score"]))
    path.write_bytes(_file(metadata, _shapes(len(tokens), pooling)))
    return path


def _shapes(vocabulary: int, pooling: int) -> dict[str, tuple[int, ...]]:
    square, line = (_WIDTH, _WIDTH), (_WIDTH,)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (_WIDTH, vocabulary),
        "token_types.weight": (_WIDTH, 2),
        "position_embd.weight": (_WIDTH, _CONTEXT),
        **{f"token_embd_norm.{part}": line for part in ("weight", "bias")},
    }
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
        shapes |= {f"blk.0.{name}.weight": square, f"blk.0.{name}.bias": line}
    for name in ("attn_output_norm", "layer_output_norm"):
        shapes |= {f"blk.0.{name}.{part}": line for part in ("weight", "bias")}
    if pooling == RANK:
        shapes |= {"cls.weight": square, "cls.bias": line}
        shapes |= {"cls.output.weight": (_WIDTH, 1), "cls.output.bias": (1,)}
    return shapes


def _file(metadata: dict[str, tuple[int, Any]], shapes: dict[str, tuple[int, ...]]) -> bytes:
    chance = random.Random(7)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata))
    head += b"".join(_text(key) + struct.pack("<I", kind) + _value(kind, of) for key, (kind, of) in metadata.items())
    data = b""
    for name, shape in shapes.items():
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [1.0] * count if "norm.weight" in name else [chance.uniform(-0.5, 0.5) for _ in range(count)]
        data += _padded(struct.pack(f"<{count}f", *values))
    return _padded(head) + data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
