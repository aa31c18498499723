from __future__ import annotations

from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.core.model_spec import ModelSpec
from cortex.gateway.catalogue import Catalogue, Changes, changed, load_catalogue, unknown_nodes

TWO_MODELS = """
[[models]]
id = "Qwen/Qwen3"
aliases = ["qwen", "gpt-4o"]
context = 4096

[[models]]
id = "demo"
engine = "simulated"
options = { slots = 2 }
"""


def load(tmp_path: Path, text: str) -> Catalogue:
    path = tmp_path / "models.toml"
    path.write_text(text)
    return load_catalogue(path)


def test_a_model_is_found_by_its_id_and_by_every_alias(tmp_path: Path) -> None:
    catalogue = load(tmp_path, TWO_MODELS)

    assert list(catalogue.specs) == ["Qwen/Qwen3", "demo"]
    assert catalogue.find("Qwen/Qwen3") is catalogue.find("qwen") is catalogue.find("gpt-4o")
    assert catalogue.find("demo") == ModelSpec(id="demo", engine="simulated", options={"slots": 2})


def test_a_tag_that_ollama_s_clients_append_changes_no_name(tmp_path: Path) -> None:
    catalogue = load(tmp_path, TWO_MODELS + '\n[[models]]\nid = "demo2:latest"\nengine = "simulated"\n')

    assert catalogue.find("demo:latest") is catalogue.find("demo")
    assert catalogue.find("qwen:latest") is catalogue.find("qwen")
    assert catalogue.find("demo2:latest") is catalogue.specs["demo2:latest"]


@pytest.mark.parametrize("name", ["", "Qwen", "QWEN", "qwen ", "demo2"])
def test_any_other_name_is_nobody_s(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, TWO_MODELS).find(name) is None


def test_an_empty_file_is_a_catalogue(tmp_path: Path) -> None:
    assert load(tmp_path, "").specs == {}


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_catalogue(tmp_path / "models.toml")

    assert str(caught.value).startswith(f"{tmp_path / 'models.toml'}: no such file; ")
    assert "models_config" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[models]]\nid = 'a/b'\nidd = 1", "unknown key 'models[0].idd'; did you mean 'id'?"),
        ("[[model]]\nid = 'a/b'", "unknown key 'model'; did you mean 'models'?"),
        ("[[models]]\nsource = 'hf:a/b'", "models[0]: Object missing required field `id`"),
        ("[[models]]\nid = 'a/b'\ncontext = '4k'", "models[0].context: Expected `int | null`, got `str`"),
        ("[[models]]\nid = 'a/b'\n[[models]]\nid = '../x'", "models[1]: '../x' is not a model id"),
        ("[[models]]\nid = 'a/b'\n[[models]]\nid = 'a/b'", "models[1]: 'a/b' is already a name of 'a/b'"),
        (
            "[[models]]\nid = 'a/b'\naliases = ['x']\n[[models]]\nid = 'c/d'\naliases = ['x']",
            "'x' is already a name of 'a/b'",
        ),
        ("[[models]]\nid = 'a/b'\naliases = ['c/d']\n[[models]]\nid = 'c/d'", "'c/d' is already a name of 'a/b'"),
        ("[[models]]\nid = 'a/b'\naliases = ['x', 'x']", "'x' is already a name of 'a/b'"),
        ("[[models]]\nid = 'a/b'\nsource = 'https://host/x.gguf'", "models[0]: source 'https://host/x.gguf': expected"),
        ("models = 5", "models: Expected `array`, got `int`"),
        ("[[models]", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert str(caught.value).startswith(f"{tmp_path / 'models.toml'}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [("qwen3", ["qwen"]), ("gpt-4", ["gpt-4o"]), ("zzzz", []), ("remote-modl", ["remote-model"]), ("x" * 100_000, [])],
    ids=lambda value: str(value)[:20],
)
def test_names_that_look_alike_are_offered(tmp_path: Path, name: str, near: list[str]) -> None:
    catalogue = load(tmp_path, TWO_MODELS)

    assert catalogue.near(name, also=["remote-model"])[:1] == near


A, B, C = ModelSpec(id="a/a"), ModelSpec(id="b/b", aliases=("b",)), ModelSpec(id="c/c", options={"x": 1, "y": [2]})


def test_a_revision_is_of_what_the_models_are_and_not_of_how_the_file_looks(tmp_path: Path) -> None:
    plain = load(tmp_path, "[[models]]\nid = 'a/a'\n[[models]]\nid = 'c/c'\noptions = {x = 1, y = [2]}")
    other = load(tmp_path, "# mine\nmodels = [{options = {y = [2], x = 1}, id = 'c/c'}, {id = 'a/a', pinned = false}]")

    assert plain.revision == other.revision == Catalogue((A, C)).revision


@pytest.mark.parametrize("specs", [(), (A,), (A, B, C), (A, ModelSpec(id="b/b")), (A, ModelSpec(id="b/b", ttl="1m"))])
def test_any_other_catalogue_has_another_revision(specs: tuple[ModelSpec, ...]) -> None:
    assert Catalogue(specs).revision != Catalogue((A, B)).revision


def test_what_an_edit_did_is_told_by_id() -> None:
    old = Catalogue((A, B))
    new = Catalogue((C, ModelSpec(id="b/b", aliases=("b2",))))

    assert changed(old, new) == Changes(added=("c/c",), removed=("a/a",), changed=("b/b",))
    assert changed(new, old) == Changes(added=("a/a",), removed=("c/c",), changed=("b/b",))


def test_another_order_is_no_change() -> None:
    assert not changed(Catalogue((A, B)), Catalogue((B, A)))
    assert changed(Catalogue(), Catalogue((A,)))


def test_nodes_that_nobody_knows_are_told_by_model() -> None:
    catalogue = Catalogue(
        (
            ModelSpec(id="a/a", nodes=("attic", "atic"), pinned_on=("cellr",)),
            ModelSpec(id="b/b", nodes=("attic",)),
            ModelSpec(id="c/c"),
        )
    )

    assert unknown_nodes(catalogue, ["attic", "cellar"]) == {"a/a": ("atic", "cellr")}
    assert unknown_nodes(catalogue, []) == {"a/a": ("atic", "attic", "cellr"), "b/b": ("attic",)}
