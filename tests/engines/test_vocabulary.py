from __future__ import annotations

from pathlib import Path

import pytest

from cortex.engines import gguf
from cortex.engines.base import LoadError
from cortex.engines.vocabulary import write_vocabulary
from tiny_gguf import MEAN, WORDS, write_encoder


def vocabulary_of(source: Path, target: Path) -> gguf.GgufHeader:
    write_vocabulary(source, gguf.read_header(source), target)
    return gguf.read_header(target)


def test_a_vocabulary_keeps_all_that_is_said_of_tokens(tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "model.gguf", MEAN)
    before, after = gguf.read_header(source), vocabulary_of(source, tmp_path / "vocabulary.gguf")

    kept = {key: value for key, value in before.metadata.items() if key.startswith("tokenizer.")}
    assert kept.items() <= after.metadata.items()
    assert after.vocabulary_size == 4 + len(WORDS)
    assert after.architecture == "llama"
    assert not [key for key in after.metadata if key.startswith("bert.")]


def test_the_words_are_those_of_the_model_byte_for_byte(tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "model.gguf", MEAN)
    target = tmp_path / "vocabulary.gguf"
    after, before = vocabulary_of(source, target), gguf.read_header(source)

    for path_and_header in ((source, before), (target, after)):
        path, header = path_and_header
        start, end = header.spans["tokenizer.ggml.tokens"]
        assert path.read_bytes()[start:end].count(b"sails") == 1
    (a, b), (c, d) = before.spans["tokenizer.ggml.tokens"], after.spans["tokenizer.ggml.tokens"]
    assert source.read_bytes()[a:b] == target.read_bytes()[c:d]


def test_a_file_without_a_vocabulary_says_so(tmp_path: Path) -> None:
    header = gguf.GgufHeader(3, "llama", {}, 0, 0)

    with pytest.raises(LoadError, match=r"model\.gguf has no vocabulary"):
        write_vocabulary(tmp_path / "model.gguf", header, tmp_path / "vocabulary.gguf")


@pytest.mark.e2e
def test_a_vocabulary_is_small_however_large_the_model(tmp_path: Path, demo_gguf: Path) -> None:
    after = vocabulary_of(demo_gguf, tmp_path / "vocabulary.gguf")

    assert gguf.weights_bytes(tmp_path / "vocabulary.gguf") < 4 << 20
    assert after.chat_template == gguf.read_header(demo_gguf).chat_template
