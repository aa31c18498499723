"""The shipped examples are read by the code that reads the real files, with their commented-out keys too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cortex.gateway.catalogue import load_catalogue
from cortex.gateway.config import load_config as load_gateway_config
from cortex.gateway.keys.file import load_keys
from cortex.neuron.config import load_config as load_neuron_config

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("cortex.example.toml", "models.example.toml", "neuron.example.toml")


@pytest.fixture(params=["as shipped", "every key uncommented"])
def examples(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The examples; a key that is commented out stands behind a `#` without a space."""
    if request.param == "as shipped":
        return EXAMPLES
    for name in NAMES:
        text = (EXAMPLES / name).read_text()
        (tmp_path / name).write_text(re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE))
    return tmp_path


def test_the_gateway_s_example_is_valid(examples: Path) -> None:
    config = load_gateway_config(examples / "cortex.example.toml", {})

    assert [neuron.name for neuron in config.neurons] == ["beast", "cupboard"]


def test_the_catalogue_s_example_is_valid_and_names_nodes_of_the_gateway_s(examples: Path) -> None:
    catalogue = load_catalogue(examples / "models.example.toml")

    known = {neuron.name for neuron in load_gateway_config(examples / "cortex.example.toml", {}).neurons}
    assert {node for spec in catalogue.specs.values() for node in spec.allowed_nodes} <= known


def test_the_neuron_s_example_is_valid(examples: Path) -> None:
    config = load_neuron_config(examples / "neuron.example.toml", {})

    assert [spec.id for spec in config.default_models] == ["smollm2-135m-instruct"]


def test_the_keys_example_is_valid(tmp_path: Path) -> None:
    copy = tmp_path / "keys.toml"
    copy.touch(mode=0o600)
    copy.write_bytes((EXAMPLES / "keys.example.toml").read_bytes())
    keys = load_keys(copy)

    assert [entry.name for entry in keys.by_id.values()] == ["ada", "ci", "operator"]
    assert keys.warnings == ()


def test_a_commented_key_shows_the_default() -> None:
    """The gateway's file promises it; the neuron's only promises a possible value."""
    text = (EXAMPLES / "cortex.example.toml").read_text()
    keys = [line for line in text.splitlines() if re.match(r"#\w", line)]
    assert keys

    shipped = load_gateway_config(EXAMPLES / "cortex.example.toml", {})

    assert shipped.limits == type(shipped.limits)()
    assert shipped.keys == type(shipped.keys)()
    for line in keys:
        key, _, value = line[1:].partition(" = ")
        place = next(part for part in (shipped, shipped.gateway, shipped.keys, shipped.limits) if hasattr(part, key))
        default = getattr(place, key) or {"models_config": "models.toml", "file": "keys.toml"}[key]
        assert value == (f'"{default}"' if isinstance(default, str) else str(default)), line
