"""`fleet.toml` is read strictly, and takes a real models.toml for what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.sim.description import Fleet, load_fleet

NODE = '[[nodes]]\nname = "n"\ndevices = [{ name = "gpu", memory = "24 GB" }]\n'
MODEL = '[[models]]\nid = "m"\n[models.simulation]\nmemory = "6 GB"\n'
EXAMPLES = Path(__file__).parents[2] / "examples"


def load(tmp_path: Path, text: str, models: str | None = None) -> Fleet:
    (tmp_path / "fleet.toml").write_text(text)
    if models is not None:
        (tmp_path / "models.toml").write_text(models)
    return load_fleet(tmp_path / "fleet.toml")


def test_the_example_can_be_simulated() -> None:
    """All that it shows is known."""
    fleet = load_fleet(EXAMPLES / "fleet.toml")

    assert [machine.name for machine in fleet.machines] == ["beast-1", "beast-2", "cupboard"]
    assert fleet.aliases == {"qwen3": "qwen3-8b"}
    assert fleet.behaviours["llama-70b"].estimate_bytes == 38_000_000_000


def test_policy_keys_are_those_of_the_gateway(tmp_path: Path) -> None:
    """Durations as text, and the limits that a decision knows."""
    text = '[eviction]\nstrategy = "priority"\nrestore_after = "5m"\n[limits]\nqueue_depth = 7\n'

    policy = load(tmp_path, text + NODE).policy

    assert (policy.strategy, policy.restore_after, policy.queue_depth) == ("priority", 300.0, 7)


def test_a_simulated_model_of_the_gateway_describes_itself(tmp_path: Path) -> None:
    """Its options are enough; and any device can serve it, as it stands for a real one."""
    models = (
        '[[models]]\nid = "m"\nengine = "simulated"\n'
        "options = { memory_mb = 2048, load_seconds = 3, tokens_per_second = 7, slots = 2, embedding_dimensions = 8 }\n"
    )

    fleet = load(tmp_path, 'models_config = "models.toml"\n' + NODE, models)

    behaviour = fleet.behaviours["m"]
    assert (behaviour.memory_bytes, behaviour.load_seconds, behaviour.tokens_per_second) == (2 << 30, 3.0, 7.0)
    assert behaviour.slots == 2
    assert fleet.catalogue["m"].engine_name == "llamacpp"


def test_a_real_model_of_the_gateway_is_described_beside_its_file(tmp_path: Path) -> None:
    """By its id; or by no more than its vram_mb."""
    models = '[[models]]\nid = "org/a"\n[[models]]\nid = "org/b"\nvram_mb = 1000\n'

    fleet = load(
        tmp_path, 'models_config = "models.toml"\n' + NODE + '[simulation."org/a"]\nmemory = "3 GB"\nslots = 9', models
    )

    assert fleet.behaviours["org/a"].slots == 9
    assert fleet.behaviours["org/b"].memory_bytes == 1000 << 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Object missing required field `nodes`"),
        ("nodes = []", "nodes: Expected `array` of length >= 1"),
        (NODE.replace("devices", "device"), "unknown key 'nodes[0].device'; did you mean 'devices'?"),
        (NODE.replace("24 GB", "24 GBB"), "nodes[0].devices[0].memory = '24 GBB': expected MiB"),
        (NODE + NODE, "nodes: the name 'n' is used twice"),
        (NODE + '[[nodes.outages]]\ndown_at = "soon"', "nodes[0].outages[0]: 'soon': expected seconds"),
        (NODE + "[[nodes.outages]]\ndown_at = 9\nup_at = 9", "outages[0].up_at = 9.0: expected a time after down_at"),
        (
            NODE + "[[nodes.outages]]\ndown_at = 9\n[[nodes.outages]]\ndown_at = 10",
            "outages[1].down_at = 10.0: expected a time after the outage before it",
        ),
        (NODE + '[[models]]\nid = "m"', "nothing says how 'm' behaves: add [models.simulation]"),
        (NODE + MODEL.replace("6 GB", "six"), "models[0]: memory = 'six': expected MiB"),
        (NODE + MODEL.replace("6 GB", "0 GB"), "models[0]: memory = '0 GB': expected more than 0"),
        (NODE + MODEL + "slot = 2", "did you mean 'slots'?"),
        (NODE + MODEL + MODEL, "models[1]: 'm' is listed twice"),
        (NODE + MODEL.replace('"m"', '"m"\naliases = ["m"]'), "alias 'm' of 'm' is already a name"),
        (NODE + MODEL.replace('"m"', '"m"\nnodes = ["x"]'), "'m' may run on 'x', which is none of the nodes here"),
        (NODE + MODEL.replace('"m"', '"m"\nttl = 0'), "models[0]: ttl = 0"),
        (NODE + '[simulation.x]\nmemory = "1 GB"', "simulation.'x': no model has this id"),
        ('[eviction]\nrestore_after = "-1s"\n' + NODE, "eviction.restore_after = '-1s'"),
        ("[eviction]\nrestore_after = -1\n" + NODE, "eviction.restore_after = -1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The file, the key, and what was expected."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert str(caught.value).startswith(str(tmp_path / "fleet.toml"))
    assert message in str(caught.value)


def test_wrong_options_of_a_simulated_model_are_named(tmp_path: Path) -> None:
    """They are as little to be trusted as what is written here."""
    with pytest.raises(ConfigError, match=r"models\[0\]: options: slots: Expected `int` >= 1"):
        load(tmp_path, NODE + '[[models]]\nid = "m"\nengine = "simulated"\noptions = { slots = 0 }')
