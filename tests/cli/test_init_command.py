from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cortex.cli.main import cortex
from cortex.gateway.catalogue import load_catalogue
from cortex.gateway.config import load_config as load_gateway
from cortex.neuron.config import load_config as load_neuron


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two models in LM Studio's cache, and nothing else."""
    for key in ("HF_HOME", "HF_HUB_CACHE", "OLLAMA_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("first", "second"):
        directory = tmp_path / ".lmstudio/models/org" / name
        directory.mkdir(parents=True)
        (directory / f"{name}.gguf").write_bytes(b"GGUF")
    return tmp_path


def init(home: Path, *options: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(cortex, ["init", str(home / "out"), *options], input=typed)


def served(home: Path) -> list[str]:
    return list(load_catalogue(home / "out/models.toml").specs)


def test_three_files_are_written_that_the_programs_can_read(home: Path) -> None:
    done = init(home)

    assert done.exit_code == 0, done.output
    assert load_gateway(home / "out/cortex.toml", {}).neurons[0].name == load_neuron(home / "out/neuron.toml", {}).name
    assert served(home) == ["first", "second"]


@pytest.mark.parametrize(
    ("models", "expected"),
    [("second", ["second"]), ("2", ["second"]), ("1,second", ["first", "second"]), ("none", ["smollm2-135m-instruct"])],
)
def test_models_are_chosen_by_name_or_number(home: Path, models: str, expected: list[str]) -> None:
    assert init(home, "--models", models).exit_code == 0
    assert served(home) == expected


def test_a_model_that_was_not_found_is_refused_with_those_that_were(home: Path) -> None:
    done = init(home, "--models", "third")

    assert done.exit_code == 2
    assert "'third': found are first, second" in done.output
    assert not (home / "out").exists()


def test_no_file_is_overwritten_unless_told_to(home: Path) -> None:
    init(home)
    (home / "out/models.toml").write_text("# mine\n")

    assert init(home).exit_code == 2
    assert (home / "out/models.toml").read_text() == "# mine\n"
    assert init(home, "--force").exit_code == 0
    assert served(home) == ["first", "second"]


def test_a_directory_that_cannot_be_made_is_said_to_be(home: Path) -> None:
    (home / "out").write_text("a file")

    done = init(home)

    assert done.exit_code == 2
