from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.engines import gguf
from cortex.engines.base import LoadError
from cortex.engines.llamacpp_memory import Model, Shape, Weights, bytes_of
from cortex.engines.llamacpp_options import Options
from cortex.wire.engine_api import Device

CPU = Device(0, "cpu", "cpu", 8 << 30)
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
GGML_F32, GGML_Q4_0, GGML_UNHEARD_OF = 0, 2, 777

LLAMA: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "llama"),
    "llama.block_count": (U32, 2),
    "llama.context_length": (U32, 4096),
    "llama.embedding_length": (U32, 64),
    "llama.attention.head_count": (U32, 8),
    "llama.attention.head_count_kv": (U32, 4),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b", "c"])),
}
TENSORS = (("embedding", (64, 4), GGML_F32, 0), ("output", (64, 2), GGML_Q4_0, 1024))
TENSOR_BYTES = 64 * 4 * 4 + 64 * 2 // 32 * 18


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(kind: int, of: Any) -> bytes:
    if kind == STRING:
        return text(of)
    if kind == ARRAY:
        item_kind, items = of
        return struct.pack("<IQ", item_kind, len(items)) + b"".join(value(item_kind, item) for item in items)
    return struct.pack("<" + {U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q"}[kind], of)


def gguf_bytes(
    metadata: dict[str, tuple[int, Any]] = LLAMA,
    tensors: tuple[tuple[str, tuple[int, ...], int, int], ...] = TENSORS,
    data_bytes: int = TENSOR_BYTES,
    version: int = 3,
) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, (kind, of) in metadata.items():
        out += text(key) + struct.pack("<I", kind) + value(kind, of)
    for name, shape, kind, offset in tensors:
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return out + bytes(-len(out) % 32) + bytes(data_bytes)


def read(tmp_path: Path, content: bytes) -> gguf.GgufHeader:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return gguf.read_header(path)


def test_a_header_is_read(tmp_path: Path) -> None:
    header = read(tmp_path, gguf_bytes())

    assert (header.version, header.architecture, header.tensor_count) == (3, "llama", 2)
    assert (header.block_count, header.context_length, header.embedding_length) == (2, 4096, 64)
    assert (header.head_count, header.head_counts_kv) == (8, (4, 4))
    assert (header.key_length, header.value_length) == (8, 8)
    assert header.tensor_bytes == TENSOR_BYTES
    assert header.vocabulary_size == 3
    assert header.metadata["tokenizer.ggml.tokens"] == gguf.Skipped(3)
    assert not header.is_embedding_model
    assert header.split_count == 1


def test_the_demo_model_is_read(demo_gguf: Path) -> None:
    header = gguf.read_header(demo_gguf)

    assert (header.architecture, header.block_count, header.head_count, header.head_counts_kv) == (
        "llama",
        30,
        9,
        (3,) * 30,
    )
    assert header.context_length == 8192
    assert header.chat_template is not None
    assert "im_start" in header.chat_template
    assert header.tensor_bytes < gguf.weights_bytes(demo_gguf) < header.tensor_bytes + (4 << 20)


def test_what_each_layer_takes_is_known(tmp_path: Path) -> None:
    names = (("token_embd.weight", 0), ("blk.0.attn_q.weight", 1024), ("blk.1.a", 2048), ("blk.1.b", 3072))
    header = read(
        tmp_path, gguf_bytes(tensors=tuple((name, (64, 4), GGML_F32, at) for name, at in names), data_bytes=4096)
    )

    assert header.layer_bytes == {0: 1024, 1: 2048}


def test_a_tensor_with_a_name_too_long_to_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="name of 2000 bytes"):
        read(tmp_path, gguf_bytes(tensors=(("n" * 2000, (64,), GGML_F32, 0),)))


@pytest.mark.parametrize(
    ("metadata", "projector"),
    [
        ({"clip.has_vision_encoder": (BOOL, True), "clip.projector_type": (STRING, "gemma3")}, "gemma3"),
        (
            {"clip.has_vision_encoder": (BOOL, True), "clip.vision.projector_type": (STRING, "qwen3vl")},
            "qwen3vl",
        ),
        ({"clip.has_vision_encoder": (BOOL, True)}, "mlp"),
        ({"clip.has_audio_encoder": (BOOL, True), "clip.projector_type": (STRING, "ultravox")}, None),
    ],
)
def test_a_projector_is_told_from_one_that_only_hears(
    tmp_path: Path, metadata: dict[str, tuple[int, Any]], projector: str | None
) -> None:
    assert read(tmp_path, gguf_bytes({"general.architecture": (STRING, "clip"), **metadata})).projector == projector


def test_kv_heads_may_differ_by_layer(tmp_path: Path) -> None:
    header = read(tmp_path, gguf_bytes({**LLAMA, "llama.attention.head_count_kv": (ARRAY, (I32, [4, 0]))}))

    assert header.head_counts_kv == (4, 0)


def test_explicit_head_sizes_win_over_the_quotient(tmp_path: Path) -> None:
    sizes = {"llama.attention.key_length": (U32, 128), "llama.attention.value_length": (U32, 64)}
    header = read(tmp_path, gguf_bytes({**LLAMA, **sizes}))

    assert (header.key_length, header.value_length) == (128, 64)


@pytest.mark.parametrize(
    ("metadata", "embeds"),
    [
        ({"general.architecture": (STRING, "bert")}, True),
        ({"general.architecture": (STRING, "qwen3"), "qwen3.pooling_type": (U32, 3)}, True),
        ({"general.architecture": (STRING, "qwen3"), "qwen3.pooling_type": (U32, 0)}, False),
        ({"general.architecture": (STRING, "qwen3")}, False),
    ],
)
def test_an_embedding_model_is_known(tmp_path: Path, metadata: dict[str, tuple[int, Any]], embeds: bool) -> None:
    assert read(tmp_path, gguf_bytes(metadata)).is_embedding_model is embeds


def test_weights_are_summed_over_shards(tmp_path: Path) -> None:
    for at in (1, 2, 3):
        (tmp_path / f"big-0000{at}-of-00003.gguf").write_bytes(bytes(at))

    assert gguf.weights_bytes(tmp_path / "big-00001-of-00003.gguf") == 6


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "big-00001-of-00002.gguf").write_bytes(b"x")

    with pytest.raises(LoadError, match=r"big-00002-of-00002\.gguf: No such file"):
        gguf.weights_bytes(tmp_path / "big-00001-of-00002.gguf")


def test_a_truncated_file_says_what_is_missing(tmp_path: Path) -> None:
    whole = gguf_bytes()

    with pytest.raises(LoadError, match=rf"truncated: needs {len(whole)} bytes, has {len(whole) - 1}"):
        read(tmp_path, whole[:-1])


def test_an_unheard_of_tensor_type_is_tolerated(tmp_path: Path) -> None:
    """A newer llama.cpp may know it; the size is then that of the file's data."""
    header = read(tmp_path, gguf_bytes(tensors=(("odd", (64,), GGML_UNHEARD_OF, 0),), data_bytes=999))

    assert header.tensor_bytes == 999


def test_a_shard_without_tensors_is_whole(tmp_path: Path) -> None:
    assert read(tmp_path, gguf_bytes(tensors=(), data_bytes=0)).tensor_bytes == 0


def test_a_missing_file_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No such file"):
        gguf.read_header(tmp_path / "nothing.gguf")


HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k")
LYING = {
    "empty": (b"", "not a GGUF"),
    "another format": (b"PK\x03\x04" + bytes(100), "not a GGUF"),
    "version 1": (gguf_bytes(version=1), "version 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "big-endian"),
    "a milliard keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, 10**9), "claims 0 tensors and 1000000000 keys"),
    "all the tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 0), "claims"),
    "a long key": (HEAD[:24] + struct.pack("<Q", 2**63), "string of"),
    "a string beyond the end": (HEAD + struct.pack("<IQ", STRING, 1 << 20), "truncated"),
    "a huge array of strings": (HEAD + struct.pack("<IIQ", ARRAY, STRING, 2**40), "array of"),
    "a huge array of numbers": (HEAD + struct.pack("<IIQ", ARRAY, U64, 2**61 + 1), "truncated"),
    "an array of arrays": (HEAD + struct.pack("<IIQ", ARRAY, ARRAY, 1), "unknown type 9"),
    "an unknown type": (HEAD + struct.pack("<I", 99), "unknown type 99"),
    "no architecture": (gguf_bytes({}), "general.architecture"),
    "alignment 0": (gguf_bytes({**LLAMA, "general.alignment": (U32, 0)}), "alignment"),
    "alignment 33": (gguf_bytes({**LLAMA, "general.alignment": (U32, 33)}), "alignment"),
    "five dimensions": (gguf_bytes(tensors=(("t", (1,) * 5, GGML_F32, 0),)), "5 dimensions"),
    "overflowing dimensions": (gguf_bytes(tensors=(("t", (2**63, 2**63, 4, 4), GGML_F32, 0),)), "truncated"),
    "an overflowing offset": (gguf_bytes(tensors=(("t", (4,), GGML_F32, 2**64 - 8),)), "truncated"),
    "half a block": (gguf_bytes(tensors=(("t", (33,), GGML_Q4_0, 0),)), "blocks of 32"),
}


@pytest.mark.parametrize("name", LYING)
def test_a_lying_header_is_a_load_error_at_once(tmp_path: Path, name: str) -> None:
    content, reason = LYING[name]
    began = time.monotonic()

    with pytest.raises(LoadError, match=reason) as caught:
        read(tmp_path, content)

    assert str(caught.value).startswith("model.gguf: ")
    assert time.monotonic() - began < 0.5


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    entry = text("k") + struct.pack("<IB", 7, 1)

    with pytest.raises(LoadError, match="comes twice"):
        read(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + entry + entry)


def test_many_long_strings_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    """Each string is within its limit and within the (sparse) file."""
    path = tmp_path / "model.gguf"
    each = 40 << 20
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 2))
        for key in ("a", "b"):
            file.write(text(key) + struct.pack("<IQ", STRING, each))
            file.seek(each, 1)
        file.write(b"end")

    with pytest.raises(LoadError, match="bytes of strings"):
        gguf.read_header(path)


@pytest.mark.parametrize(
    "entry",
    [("llama.block_count", (STRING, "two")), ("llama.attention.head_count_kv", (F32, 1.5)), ("split.count", (I32, -3))],
)
def test_a_value_of_the_wrong_type_is_named(tmp_path: Path, entry: tuple[str, tuple[int, Any]]) -> None:
    header = read(tmp_path, gguf_bytes({**LLAMA, entry[0]: entry[1]}))

    with pytest.raises(LoadError, match=entry[0]):
        _ = (header.split_count, header.head_counts_kv)


def test_a_scalar_for_a_milliard_layers_is_refused(tmp_path: Path) -> None:
    header = read(tmp_path, gguf_bytes({**LLAMA, "llama.block_count": (U32, 10**9)}))

    with pytest.raises(LoadError, match="1000000000 layers"):
        _ = header.head_counts_kv


WHOLE = gguf_bytes(data_bytes=TENSOR_BYTES)


@settings(max_examples=300, deadline=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(WHOLE)), flips=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=3))
def test_any_damage_gives_a_header_or_a_load_error(tmp_path: Path, cut: int, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(WHOLE)
    for at, byte in flips:
        damaged[at % len(damaged)] = byte

    try:
        header = read(tmp_path, bytes(damaged[:cut] if cut % 2 else damaged))
        bytes_of(Model(Weights(header, 1000)), Options(), Shape(1, 4096), (CPU,))
    except LoadError:
        pass
