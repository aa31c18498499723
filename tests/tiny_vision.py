"""A GGUF model that sees, of some hundred kilobytes: a decoder with chance for weights, and a projector beside it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

from tiny_gguf import ARRAY, BOOL, F32, I32, STRING, U32, write_file

WIDTH, HEADS, LAYERS, CONTEXT = 64, 2, 2, 2048
SIGHT, PATCH, IMAGE = 32, 8, 32
IMAGE_TOKENS = (IMAGE // PATCH) ** 2
_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
_UNKNOWN, _CONTROL, _NORMAL = 2, 3, 1


def write_decoder(path: Path, *, context: int = CONTEXT, layers: int = LAYERS, width: int = WIDTH) -> Path:
    """Write a Llama that reads and writes printable ASCII, a character a token, and return *path*."""
    characters = ["\n", "\u2581", *map(chr, range(33, 127))]
    tokens = ["<unk>", "<s>", "</s>", *characters]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_NORMAL] * len(characters)]
    metadata: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "llama"),
        "llama.block_count": (U32, layers),
        "llama.context_length": (U32, context),
        "llama.embedding_length": (U32, width),
        "llama.feed_forward_length": (U32, width),
        "llama.attention.head_count": (U32, HEADS),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.scores": (ARRAY, (F32, [0.0] * len(tokens))),
        "tokenizer.ggml.token_type": (ARRAY, (I32, kinds)),
        "tokenizer.ggml.bos_token_id": (U32, 1),
        "tokenizer.ggml.eos_token_id": (U32, 2),
        "tokenizer.chat_template": (STRING, _TEMPLATE),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (width, len(tokens)), "output_norm.weight": (width,)}
    for at in range(layers):
        shapes |= {f"blk.{at}.{name}_norm.weight": (width,) for name in ("attn", "ffn")}
        shapes |= {f"blk.{at}.attn_{name}.weight": (width, width) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{at}.ffn_{name}.weight": (width, width) for name in ("gate", "up", "down")}
    return write_file(path, metadata, shapes)


def write_adapter(path: Path) -> Path:
    """Write a LoRA adapter of rank 4 for the first layer of the decoder, and return *path*."""
    metadata: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "llama"),
        "general.type": (STRING, "adapter"),
        "adapter.type": (STRING, "lora"),
        "adapter.lora.alpha": (F32, 4.0),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "blk.0.ffn_down.weight.lora_a": (WIDTH, 4),
        "blk.0.ffn_down.weight.lora_b": (4, WIDTH),
    }
    return write_file(path, metadata, shapes)


def write_projector(path: Path) -> Path:
    """Write a vision tower whose images are as wide as the decoder's tokens, and return *path*."""
    metadata: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "clip"),
        "clip.has_vision_encoder": (BOOL, True),
        "clip.projector_type": (STRING, "mlp"),
        "clip.use_gelu": (BOOL, True),
        "clip.vision.image_size": (U32, IMAGE),
        "clip.vision.patch_size": (U32, PATCH),
        "clip.vision.embedding_length": (U32, SIGHT),
        "clip.vision.feed_forward_length": (U32, SIGHT),
        "clip.vision.projection_dim": (U32, WIDTH),
        "clip.vision.block_count": (U32, 2),
        "clip.vision.attention.head_count": (U32, 2),
        "clip.vision.attention.layer_norm_epsilon": (F32, 1e-5),
        "clip.vision.image_mean": (ARRAY, (F32, [0.5] * 3)),
        "clip.vision.image_std": (ARRAY, (F32, [0.25] * 3)),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (PATCH, PATCH, 3, SIGHT),
        "v.position_embd.weight": (SIGHT, IMAGE_TOKENS),
        "mm.0.weight": (SIGHT, WIDTH),
        "mm.0.bias": (WIDTH,),
        "mm.2.weight": (WIDTH, WIDTH),
        "mm.2.bias": (WIDTH,),
    }
    for at in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down"):
            shapes |= {f"v.blk.{at}.{name}.weight": (SIGHT, SIGHT), f"v.blk.{at}.{name}.bias": (SIGHT,)}
        for name in ("ln1", "ln2"):
            shapes |= {f"v.blk.{at}.{name}.weight": (SIGHT,), f"v.blk.{at}.{name}.bias": (SIGHT,)}
    return write_file(path, metadata, shapes)


def png(red: int, green: int, blue: int, size: int = 32) -> bytes:
    """Return a square image of one colour, with a black corner."""
    line = bytes([red, green, blue]) * size
    rows = [bytes(3 * size // 2) + line[3 * size // 2 :] if at < size // 2 else line for at in range(size)]
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
