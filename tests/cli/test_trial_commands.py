"""What `neuron validate` takes for a model, and how `neuron tp-smoke` shows a group."""

from __future__ import annotations

import click
import pytest

from cortex.cli.trial_commands import _show, indices_of, spec_named
from cortex.core.errors import ConfigError
from cortex.core.model_spec import ModelSpec
from cortex.neuron.config import NeuronConfig

CONFIG = NeuronConfig(default_models=[ModelSpec(id="demo", source="hf:a/b", options={"slots": 2})])


def test_a_model_of_the_file_is_taken_as_it_is_there() -> None:
    assert spec_named("demo", None, None, (), CONFIG) == CONFIG.default_models[0]


def test_options_of_the_command_line_come_on_top() -> None:
    spec = spec_named("demo", "transformers", 2, ("slots=8", "dtype=float32"), CONFIG)

    assert (spec.engine_name, spec.devices) == ("transformers", 2)
    assert spec.options == {"slots": 8, "dtype": "float32"}


@pytest.mark.parametrize(
    ("source", "id_"),
    [
        ("hf:org/repo", "repo"),
        ("pypi:package==1.0#sha256=" + "0" * 64, "package--1.0"),
        ("/models/qwen 3/", "qwen-3"),
        ("./a.gguf", "a.gguf"),
    ],
)
def test_a_source_is_a_model_by_itself(source: str, id_: str) -> None:
    assert spec_named(source, None, None, (), CONFIG).id == id_


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(ConfigError, match="MODEL"):
        spec_named("no such", None, None, (), CONFIG)


def test_an_option_needs_a_value() -> None:
    with pytest.raises(click.BadParameter, match="NAME=VALUE"):
        spec_named("demo", None, None, ("slots",), CONFIG)


@pytest.mark.parametrize("text", ["", "0", "0,0", "0,-1", "a,b"])
def test_a_group_is_two_devices_or_more(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected"):
        indices_of(text)


def test_the_sum_of_each_rank_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert _show({"step": "self_check", "expected": 2, "sums": {"0": 2.0, "1": 2.0}}) == "self_check"

    assert "rank 0 saw 2, rank 1 saw 2; expected 2" in capsys.readouterr().out


def test_what_failed_is_said_on_the_other_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert _show({"step": "failed", "reason": "rank 1 of 2 was ended by SIGKILL"}) == "failed"

    assert "SIGKILL" in capsys.readouterr().err
