"""GGUF files of a few kilobytes that llama.cpp loads: chance for weights; an encoder, to embed or to rank."""

from __future__ import annotations

import math
import random
import struct
from pathlib import Path
from typing import Any

WORDS = ("the", "sea", "is", "wide", "a", "ship", "sails", "far", "bread", "bakes")
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_WIDTH, _CONTEXT, _ALIGNMENT = 32, 64, 32
RANK, MEAN = 4, 1
_NORMS = ("norm.weight", "ln1.weight", "ln2.weight")


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _value(kind: int, of: Any) -> bytes:
    if kind == STRING:
        return _text(of)
    if kind == ARRAY:
        item, items = of
        return struct.pack("<IQ", item, len(items)) + b"".join(_value(item, each) for each in items)
    return struct.pack("<" + {U32: "I", I32: "i", F32: "f", BOOL: "?"}[kind], of)


def write_encoder(path: Path, pooling: int) -> Path:
    """Write a BERT of one layer that pools as *pooling* says, and return *path*."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"\u2581{word}" for word in WORDS)]
    metadata: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "bert"),
        "bert.block_count": (U32, 1),
        "bert.context_length": (U32, _CONTEXT),
        "bert.embedding_length": (U32, _WIDTH),
        "bert.feed_forward_length": (U32, _WIDTH),
        "bert.attention.head_count": (U32, 2),
        "bert.attention.layer_norm_epsilon": (F32, 1e-12),
        "bert.attention.causal": (BOOL, False),
        "bert.pooling_type": (U32, pooling),
        "tokenizer.ggml.model": (STRING, "bert"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [3, 2, 3, 3, *[1] * len(WORDS)])),
        "tokenizer.ggml.token_type_count": (U32, 2),
        "tokenizer.ggml.padding_token_id": (U32, 0),
        "tokenizer.ggml.unknown_token_id": (U32, 1),
        "tokenizer.ggml.cls_token_id": (U32, 2),
        "tokenizer.ggml.bos_token_id": (U32, 2),
        "tokenizer.ggml.seperator_token_id": (U32, 3),
    }
    if pooling == RANK:
        metadata["bert.classifier.output_labels"] = (ARRAY, (STRING, ["score"]))
    return write_file(path, metadata, _shapes(len(tokens), pooling))


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


def write_file(path: Path, metadata: dict[str, tuple[int, Any]], shapes: dict[str, tuple[int, ...]]) -> Path:
    """Write tensors of *shapes* in f32, chance but for the norms, and return *path*."""
    chance = random.Random(7)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata))
    head += b"".join(_text(key) + struct.pack("<I", kind) + _value(kind, of) for key, (kind, of) in metadata.items())
    data = b""
    for name, shape in shapes.items():
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        count = math.prod(shape)
        values = [1.0] * count if name.endswith(_NORMS) else [chance.uniform(-0.5, 0.5) for _ in range(count)]
        data += _padded(struct.pack(f"<{count}f", *values))
    path.write_bytes(_padded(head) + data)
    return path


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
