"""What is read of a folder of safetensors, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from cortex.engines.base import LoadError
from cortex.engines.transformers.folder import read_folder

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "dtype": "bfloat16",
    "eos_token_id": 2,
}
TENSORS: dict[str, Any] = {
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [100, 64], "data_offsets": [0, 12800]},
    "model.layers.0.mlp.up_proj.weight": {"dtype": "F32", "shape": [10, 10], "data_offsets": [12800, 13200]},
}


def write(folder: Path, *, config: Any = None, tensors: Any = None, data_bytes: int = 13200, **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    header = json.dumps(TENSORS if tensors is None else tensors).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(data_bytes))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_a_folder_says_what_the_model_is(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path / "m"))

    assert folder.generates
    assert (folder.context_length, folder.vocabulary_size, folder.stored_dtype) == (512, 100, "bfloat16")
    assert folder.kv_bytes_per_token("auto") == 2 * 2 * 4 * 8 * 2


def test_heads_are_dealt_out_evenly_or_not_at_all(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path / "m"))

    assert [ranks for ranks in range(1, 9) if folder.splits_over(ranks)] == [1, 2, 4]


def test_weights_are_counted_in_what_they_are_computed_in(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path / "m"))

    assert folder.weights_bytes("auto") == 2 * (6400 + 100)
    assert folder.weights_bytes("float32") == 4 * (6400 + 100)


def test_every_stop_token_of_every_file_counts(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path / "m", generation_config={"eos_token_id": [5, 2, 7]}))

    assert folder.stop_ids == (5, 2, 7)


def test_the_text_part_of_a_model_of_several_is_the_one_that_counts(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path / "m", config={"text_config": {"max_position_embeddings": 77}}))

    assert folder.context_length == 77


def test_a_sentence_model_embeds(tmp_path: Path) -> None:
    steps = [{"path": "", "type": "s.Transformer"}, {"path": "1_Pooling", "type": "s.Pooling"}]
    path = write(tmp_path / "m", modules=steps, sentence_bert_config={"max_seq_length": 256})
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')

    folder = read_folder(path)

    assert not folder.generates
    assert folder.context_length == 256
    assert folder.pooling == {"pooling_mode_cls_token": True}


def lying(**changed: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [10], "data_offsets": [0, 40], **changed}}


@pytest.mark.parametrize(
    ("tensors", "data_bytes"),
    [
        (TENSORS, 13199),
        (lying(data_offsets=[0, 44]), 44),
        (lying(data_offsets=[-4, 36]), 40),
        (lying(shape=[10**18]), 40),
        (lying(shape="ten"), 40),
        ({"w": 7}, 40),
    ],
)
def test_a_file_that_lies_about_its_tensors_is_refused(tmp_path: Path, tensors: Any, data_bytes: int) -> None:
    with pytest.raises(LoadError, match=r"model\.safetensors: tensor"):
        read_folder(write(tmp_path / "m", tensors=tensors, data_bytes=data_bytes))


@pytest.mark.parametrize("start", [b"", b"\xff" * 8, struct.pack("<Q", 4) + b"nope", struct.pack("<Q", 2) + b"[]"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, start: bytes) -> None:
    path = write(tmp_path / "m")
    (path / "model.safetensors").write_bytes(start)

    with pytest.raises(LoadError, match=r"model\.safetensors"):
        read_folder(path)


def test_an_index_may_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "m")
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../other.safetensors"}}')

    with pytest.raises(LoadError, match="outside of its folder"):
        read_folder(path)


def test_a_gguf_file_is_for_another_engine(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")

    with pytest.raises(LoadError, match="llamacpp"):
        read_folder(file)
