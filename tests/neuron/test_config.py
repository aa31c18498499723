from __future__ import annotations

from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.core.model_spec import ModelSpec
from cortex.neuron.config import Harness, Limits, NeuronConfig, SimulatedDevice, default_cache, load_config
from cortex.neuron.identity import listen_host

WHOLE = """
name = "attic"
host = "0.0.0.0"
port = 0
log = "info,cortex.neuron=debug"
log_format = "json"

[models]
cache = "~/models"
hub_endpoint = "http://hub.local"
offline = true

[limits]
queue_depth = 0
load_seconds = 60
drain_seconds = 0
heartbeat_seconds = 2.5

[[harnesses]]
name = "simulated"

[[default_models]]
id = "org/demo"
engine = "simulated"
devices = 2
options = { slots = 3 }

[[simulated_devices]]
name = "RTX 4090"
memory_mb = 24576
"""


def load(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> NeuronConfig:
    path = tmp_path / "neuron.toml"
    path.write_text(text)
    return load_config(path, env or {})


def refusal(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, env)
    return str(caught.value)


def test_an_empty_file_listens_on_this_machine_only(tmp_path: Path) -> None:
    config = load(tmp_path, "")

    assert config == NeuronConfig()
    assert (listen_host(config.host, None), config.port) == ("127.0.0.1", 13131)
    assert config.limits == Limits(queue_depth=64, load_seconds=1800, drain_seconds=30, heartbeat_seconds=10)


def test_every_key_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, WHOLE)

    assert (config.name, config.host, config.port, config.log_format) == ("attic", "0.0.0.0", 0, "json")
    assert config.limits == Limits(queue_depth=0, load_seconds=60, drain_seconds=0, heartbeat_seconds=2.5)
    assert (config.models.hub_endpoint, config.models.offline) == ("http://hub.local", True)
    assert config.harnesses == [Harness("simulated")]
    assert config.default_models == [ModelSpec(id="org/demo", engine="simulated", devices=2, options={"slots": 3})]
    assert config.simulated_devices == [SimulatedDevice("RTX 4090", 24576)]


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    env = {
        "NEURON_PORT": "14000",
        "NEURON_HOST": "0.0.0.0",
        "NEURON_LIMITS__QUEUE_DEPTH": "3",
        "NEURON_MODELS__OFFLINE": "true",
        "NEURON_SIMULATED_DEVICES": '[{name = "A", memory_mb = 8}]',
        "NEURON_HOME": "not a key, so none of ours",
        "CORTEX_GATEWAY__LISTEN": "somebody else's",
    }
    config = load(tmp_path, "port = 1\n[limits]\nqueue_depth = 1\ndrain_seconds = 7", env)

    assert (config.port, config.host) == (14000, "0.0.0.0")
    assert (config.limits.queue_depth, config.limits.drain_seconds) == (3, 7)
    assert config.models.offline
    assert config.simulated_devices == [SimulatedDevice("A", 8)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", ("unknown key 'prot'", "did you mean 'port'?")),
        ("[limits]\nqueue = 1", ("unknown key 'limits.queue'", "queue_depth")),
        ("port = 65536", ("port: ", "<= 65535")),
        ("port = '13131'", ("port: ", "Expected `int`, got `str`")),
        ("log_format = 'xml'", ("log_format: ", "'xml'")),
        ("[limits]\nqueue_depth = -1", ("limits.queue_depth: ", ">= 0")),
        ("[limits]\nheartbeat_seconds = 0", ("limits.heartbeat_seconds: ", "> 0")),
        ("[[simulated_devices]]\nname = 'A'\nmemory_mb = 0", ("simulated_devices[0].memory_mb: ", ">= 1")),
        ("[[simulated_devices]]\nname = 'A'", ("simulated_devices[0]: ", "memory_mb")),
        ("[[default_models]]\nid = '../m'", ("default_models[0]: ", "'../m' is not a model id")),
        ("[[default_models]]\nid = 'a/b'\n[[default_models]]\nid = 'a/b'", ("[1]: ", "'a/b' is listed twice")),
        ("[[default_models]]\nid = 'a/b'\nengine = 'candle'", ("default_models[0]: ", "candle")),
        ("[[default_models]]\nid = 'm'\nquants = 'Q4'", ("quants", "did you mean 'quant'?")),
        ("port = ", ("not valid TOML",)),
    ],
)
def test_a_mistake_names_the_file_the_key_and_what_was_expected(
    tmp_path: Path, text: str, said: tuple[str, ...]
) -> None:
    message = refusal(tmp_path, text)

    assert message.startswith(f"{tmp_path / 'neuron.toml'}: ")
    for words in said:
        assert words in message


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"NEURON_PORT": "many"}, ("NEURON_PORT: port: ", "Expected `int`")),
        ({"NEURON_LIMITS__QUEUE": "1"}, ("NEURON_LIMITS__QUEUE: ", "unknown key 'limits.queue'")),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    tmp_path: Path, env: dict[str, str], said: tuple[str, ...]
) -> None:
    message = refusal(tmp_path, "", env)

    for words in said:
        assert words in message


def test_a_file_that_is_not_there_is_missed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neuron\.toml: no such file"):
        load_config(tmp_path / "neuron.toml", {})


@pytest.mark.parametrize(
    ("env", "cache"),
    [
        ({"CORTEX_CACHE": "/models", "XDG_CACHE_HOME": "/x"}, Path("/models")),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/cortex")),
        ({"CORTEX_CACHE": "", "XDG_CACHE_HOME": ""}, Path("~/.cache/cortex").expanduser()),
        ({}, Path("~/.cache/cortex").expanduser()),
    ],
)
def test_the_cache_is_where_the_environment_says(env: dict[str, str], cache: Path) -> None:
    assert default_cache(env) == cache


def test_the_cache_of_the_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORTEX_CACHE", "/elsewhere")

    assert load(tmp_path, "[models]\ncache = '~/models'").cache == Path("~/models").expanduser()
    assert load(tmp_path, "").cache == Path("/elsewhere")
