from __future__ import annotations

from pathlib import Path

import pytest

from cortex.cli.init.caches import FoundModel
from cortex.cli.init.files import Machine, cortex_toml, models_toml, neuron_toml
from cortex.cli.init.machine import node_name
from cortex.gateway.catalogue import Catalogue, load_catalogue
from cortex.gateway.config import load_config as load_gateway
from cortex.neuron.config import load_config as load_neuron
from cortex.neuron.identity import listen_host
from cortex.wire.node_api import DeviceInfo

GPU = DeviceInfo(index=0, name="RTX 4090", kind="cuda", memory_total_bytes=24 << 30, vram_total_mb=24576)
MACHINE = Machine('b"ox', [GPU], [20 << 30], ["llamacpp"])
SMALL = FoundModel("small", Path('/models/a "name".gguf'), 4 << 30, "LM Studio", "Q4_K_M")
LARGE = FoundModel("large", Path("/models/large.gguf"), 40 << 30, "Ollama")


@pytest.fixture(autouse=True)
def _models_are_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda path: path.suffix in (".gguf", ".toml"))


def catalogue(tmp_path: Path, text: str) -> Catalogue:
    (tmp_path / "models.toml").write_text(text)
    return load_catalogue(tmp_path / "models.toml")


def test_gateway_and_node_agree_on_where_the_node_is(tmp_path: Path) -> None:
    machine = Machine("box", [GPU], [20 << 30], ["llamacpp"])
    (tmp_path / "cortex.toml").write_text(cortex_toml(machine, 13131))
    (tmp_path / "neuron.toml").write_text(neuron_toml(machine, 13131))

    gateway, neuron = load_gateway(tmp_path / "cortex.toml", {}), load_neuron(tmp_path / "neuron.toml", {})

    assert [(node.name, node.address) for node in gateway.neurons] == [
        ("box", (listen_host(neuron.host, None), neuron.port))
    ]
    assert neuron.name == "box"
    assert "RTX 4090 (cuda): 24.0 GiB, 20.0 GiB free" in neuron_toml(machine, 13131)


def test_chosen_models_are_served_from_where_they_are(tmp_path: Path) -> None:
    [spec] = catalogue(tmp_path, models_toml(MACHINE, [SMALL], [])).specs.values()

    assert (spec.id, spec.source, spec.engine) == ("small", '/models/a "name".gguf', "llamacpp")


def test_the_others_are_comments_that_say_why_and_can_be_uncommented(tmp_path: Path) -> None:
    text = models_toml(MACHINE, [SMALL], [LARGE])

    assert list(catalogue(tmp_path, text).specs) == ["small"]
    assert "# Not served: its 40.0 GiB do not fit on one device here" in text
    uncommented = "\n".join(
        line[1:] if line.startswith(("#[", "#id", "#so", "#en", "#no")) else line for line in text.splitlines()
    )
    assert list(catalogue(tmp_path, uncommented).specs) == ["small", "large"]


def test_without_a_model_there_is_the_demo(tmp_path: Path) -> None:
    assert list(catalogue(tmp_path, models_toml(MACHINE, [], [LARGE])).specs) == ["smollm2-135m-instruct"]


def test_what_no_engine_reads_says_what_to_install() -> None:
    safetensors = FoundModel("m", Path("/models/m"), 1 << 30, "Hugging Face")

    why = MACHINE.why_not(safetensors)

    assert why is not None
    assert "cortex-fleet[transformers]" in why


@pytest.mark.parametrize(
    ("hostname", "name"),
    [("beast", "beast"), ("Beast.lan", "beast"), ("my box", "my-box"), ("", "local"), ("_x_", "x"), ("é", "local")],
)
def test_a_node_is_called_by_its_machines_short_name(hostname: str, name: str) -> None:
    assert node_name(hostname) == name
