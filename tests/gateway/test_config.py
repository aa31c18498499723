from __future__ import annotations

from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.fleet.situation import Policy
from cortex.gateway.config import (
    Gateway,
    GatewayConfig,
    KeySettings,
    NeuronAddress,
    catalogue_path,
    key_file,
    load_config,
    node_token,
    restart_keys,
    state_directory,
)

TWO_NODES = """
[gateway]
listen = "0.0.0.0:8080"

[eviction]
strategy = "priority"
defrag_after_cycles = 3

[[neurons]]
name = "attic"
endpoint = "http://attic:13131"

[[neurons]]
name = "cellar"
endpoint = "http://[::1]:13132/"
"""


def load(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> GatewayConfig:
    path = tmp_path / "cortex.toml"
    path.write_text(text)
    return load_config(path, env or {})


def refusal(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, env)
    return str(caught.value)


def one(endpoint: str, name: str = "a") -> str:
    return f'[[neurons]]\nname = "{name}"\nendpoint = "{endpoint}"\n'


def test_an_empty_file_listens_on_this_machine_only(tmp_path: Path) -> None:
    config = load(tmp_path, "")

    assert config.gateway.listen == "127.0.0.1:31313"
    assert config.gateway.metrics_listen == "127.0.0.1:31314"
    assert config.neurons == []


def test_the_keys_of_the_original_are_read(tmp_path: Path) -> None:
    config = load(tmp_path, TWO_NODES)

    assert config.gateway.listen == "0.0.0.0:8080"
    assert (config.eviction.strategy, config.eviction.defrag_after_cycles) == ("priority", 3)
    assert [(n.name, n.address) for n in config.neurons] == [("attic", ("attic", 13131)), ("cellar", ("::1", 13132))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[[nodes]]\nname = 'a'\nendpoint = 'http://a:1'",
            "unknown key 'nodes'; known keys here: eviction, gateway, images, keys, limits, models_config, neurons, "
            "responses",
        ),
        ("[gateway]\nlisten_on = 'x'", "unknown key 'gateway.listen_on'; did you mean 'listen'?"),
        ("[eviction]\nstrategy = 'random'", "eviction.strategy: Invalid enum value 'random'"),
        ("[eviction]\ndefrag_after_cycles = -1", "eviction.defrag_after_cycles: Expected `int` >= 0"),
        ("[eviction]\ndrain_after = 'soon'", "eviction.drain_after = 'soon': expected seconds, or text such as"),
        ("[eviction]\nrestore_after = '5 m m'", "eviction.restore_after = '5 m m': expected seconds"),
        ("[eviction]\nspread_after = -1", "eviction.spread_after = -1.0: expected at least 0"),
        ("[eviction]\nspread_after = inf", "eviction.spread_after = inf: expected seconds"),
        ("[eviction]\ndrain_after = true", "eviction.drain_after: Expected `float | str`, got `bool`"),
        ("[images]\nmax_bytes = 20", "images.max_bytes: Expected `str`, got `int`"),
        ("[images]\nmax_bytes = '20'", "images.max_bytes: Expected `str` matching regex"),
        ("[images]\nmax_bytes = 'much'", "images.max_bytes = 'much': expected MiB, or text such as"),
        ("[images]\nmax_bytes = '33 MiB'", "images.max_bytes = '33 MiB': expected 1 to 33554432 bytes"),
        ("[images]\ntimeout_seconds = 0", "images.timeout_seconds: Expected `float` > 0"),
        ("[responses]\nkeep = -1", "responses.keep = -1.0: expected at least 0"),
        ("[responses]\nmax_responses = 0", "responses.max_responses: Expected `int` >= 1"),
        ("[responses]\nmax_bytes = '0 B'", "responses.max_bytes = '0 B': expected at least 1 byte"),
        ("[limits]\npoll_seconds = 0", "limits.poll_seconds: Expected `float` > 0"),
        ("[limits]\npoll_seconds = inf", "limits.poll_seconds: Expected `float` <= 31536000"),
        ("[limits]\nqueue_seconds = 0", "limits.queue_seconds: Expected `float` > 0"),
        ("[limits]\nqueue_depth = -1", "limits.queue_depth: Expected `int` >= 0"),
        ("[limits]\nrestart_grace_seconds = -1", "limits.restart_grace_seconds: Expected `float` >= 0"),
        ("[gateway]\nlog = 'loud'", "gateway.log: log filter 'loud': 'loud' is not a level"),
        ("[keys]\nauth = 'some'", "keys.auth: Invalid enum value 'some'"),
        ("[keys]\nallowed_hosts = 'x'", "keys.allowed_hosts: Expected `array | null`, got `str`"),
        ("[gateway]\nstate = 1", "gateway.state: Expected `str | null`, got `int`"),
        ("[limits]\nmisses = 0", "limits.misses: Expected `int` >= 1"),
        ("[gateway]\nlisten = 31313", "gateway.listen: Expected `str`, got `int`"),
        ("[gateway]\nlog_format = 'xml'", "gateway.log_format: Invalid enum value 'xml'"),
        ("[[neurons]]\nname = 'a'", "neurons[0]: Object missing required field `endpoint`"),
        ("[[neurons]]\nname = 'a'\nendpoint = 'http://a:1'\nport = 1", "unknown key 'neurons[0].port'"),
        ("[neurons]\nname = 'a'", "neurons: Expected `array`, got `object`"),
        (one("http://a:1", ""), "neurons[0].name"),
        (one("http://a:1", "a b"), "neurons[0].name"),
        (one("http://a:1", "../a"), "neurons[0].name"),
        (one("http://a:1", "a\\n"), "neurons[0].name"),
        (one("http://a:1") + one("http://b:1"), "neurons[1].name = 'a': used twice"),
    ],
)
def test_what_is_wrong_stops_the_start_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    reason = refusal(tmp_path, text)

    assert reason.startswith(str(tmp_path / "cortex.toml"))
    assert said in reason


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "attic",
        "attic:13131",
        "https://attic:13131",
        "ftp://attic",
        "http://",
        "http://:13131",
        "http://attic:99999",
        "http://attic:0",
        "http://attic:port",
        "http://[::1",
        "http://attic:13131/v1",
        "http://attic:13131?x=1",
        "http://attic:13131#x",
        "http://user:secret@attic:13131",
        "http://at tic:13131",
        "http://attic..local:13131",
        f"http://{'a' * 64}:13131",
        "http://at\\u0000tic:13131",
        "http://at\\ntic:13131",
    ],
)
def test_an_endpoint_is_http_host_and_port_and_nothing_else(tmp_path: Path, endpoint: str) -> None:
    assert "neurons[0].endpoint" in refusal(tmp_path, one(endpoint))


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("http://attic", ("attic", 80)),
        ("http://10.0.0.5:13131", ("10.0.0.5", 13131)),
        ("http://attic.local:1/", ("attic.local", 1)),
        ("http://[fe80::1]:13131", ("fe80::1", 13131)),
    ],
)
def test_an_endpoint_gives_an_address(endpoint: str, address: tuple[str, int]) -> None:
    assert NeuronAddress(name="a", endpoint=endpoint).address == address


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    env = {
        "CORTEX_GATEWAY__LISTEN": "127.0.0.1:9",
        "CORTEX_LIMITS__MISSES": "7",
        "CORTEX_LIMITS__STALL_SECONDS": "2.5",
        "CORTEX_MODELS_CONFIG": "other.toml",
    }
    config = load(tmp_path, TWO_NODES, env)

    assert config.gateway.listen == "127.0.0.1:9"
    assert (config.limits.misses, config.limits.stall_seconds) == (7, 2.5)
    assert config.models_config == "other.toml"


def test_variables_for_other_things_are_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, "", {"CORTEX_LOG": "debug", "CORTEX_CACHE": "/x", "PATH": "/bin"}) == GatewayConfig()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CORTEX_GATEWAY__LISTN", "x", "unknown key 'gateway.listn'; did you mean 'listen'?"),
        ("CORTEX_GATWAY__LISTEN", "x", "unknown key 'gatway'; did you mean 'gateway'?"),
        ("CORTEX_LIMITS__MISSES", "many", "limits.misses: Expected `int`, got `str`"),
        ("CORTEX_EVICTION__STRATEGY", "random", "eviction.strategy: Invalid enum value 'random'"),
    ],
)
def test_a_wrong_variable_stops_the_start_by_its_own_name(tmp_path: Path, name: str, value: str, said: str) -> None:
    reason = refusal(tmp_path, "", {name: value})

    assert reason == f"{name}: {said}"


@pytest.mark.parametrize(
    ("models_config", "expected"),
    [(None, "/etc/cortex/models.toml"), ("m.toml", "/etc/cortex/m.toml"), ("/srv/m.toml", "/srv/m.toml")],
)
def test_the_catalogue_lies_beside_the_configuration(models_config: str | None, expected: str) -> None:
    config = GatewayConfig(models_config=models_config)

    assert catalogue_path(Path("/etc/cortex/cortex.toml"), config) == Path(expected)


def test_an_empty_file_means_the_policy_that_the_decisions_take_for_granted(tmp_path: Path) -> None:
    assert load(tmp_path, "").policy() == Policy()


def test_every_part_of_the_policy_is_the_operator_s_to_say(tmp_path: Path) -> None:
    text = """
[eviction]
strategy = "priority"
defrag_after_cycles = 3
drain_after = "500ms"
restore_after = "5m"
spread_after = 0

[limits]
queue_depth = 0
queue_seconds = 60
restart_grace_seconds = 0
"""

    assert load(tmp_path, text).policy() == Policy(
        strategy="priority",
        drain_after=0.5,
        restore_after=300.0,
        spread_after=0.0,
        defrag_after_cycles=3,
        queue_depth=0,
        queue_seconds=60.0,
        restart_grace=0.0,
    )


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", ()),
        ("[gateway]\nlog = 'debug'\n[eviction]\nstrategy = 'priority'\n[limits]\nmisses = 9\n" + one("http://a:1"), ()),
        ("models_config = 'x.toml'\n[gateway]\nlog_format = 'json'", ("gateway.log_format", "models_config")),
        ("[gateway]\nlisten = '127.0.0.1:1'\nstate = 's'", ("gateway.listen", "gateway.state")),
        ("[images]\nallow_urls = true\n[responses]\nkeep = 0", ("images.allow_urls", "responses.keep")),
    ],
)
def test_the_keys_that_an_edit_cannot_change_at_once_are_named(
    tmp_path: Path, text: str, keys: tuple[str, ...]
) -> None:
    assert restart_keys(GatewayConfig(), load(tmp_path, text)) == keys


@pytest.mark.parametrize(
    ("state", "env", "expected"),
    [
        ("/var/lib/cortex", {}, "/var/lib/cortex"),
        ("state", {"XDG_STATE_HOME": "/x"}, "/etc/cortex/state"),
        ("~/s", {}, "/home/me/s"),
        (None, {"XDG_STATE_HOME": "/x"}, "/x/cortex"),
        (None, {"XDG_STATE_HOME": ""}, "/home/me/.local/state/cortex"),
        (None, {}, "/home/me/.local/state/cortex"),
    ],
)
def test_state_lies_where_it_is_told_to_or_where_users_keep_theirs(
    monkeypatch: pytest.MonkeyPatch, state: str | None, env: dict[str, str], expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = GatewayConfig(gateway=Gateway(state=state))

    assert state_directory(Path("/etc/cortex/cortex.toml"), config, env) == Path(expected)


@pytest.mark.parametrize(
    ("file", "expected"), [(None, "keys.toml"), ("k.toml", "k.toml"), ("/srv/k.toml", "/srv/k.toml")]
)
def test_the_keys_lie_beside_the_configuration(file: str | None, expected: str) -> None:
    config = GatewayConfig(keys=KeySettings(file=file))

    assert key_file(Path("/etc/cortex/cortex.toml"), config) == Path("/etc/cortex") / expected


def test_the_nodes_token_is_read_from_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-16-chars\n")
    config = GatewayConfig(keys=KeySettings(node_token_file="token"))

    assert node_token(tmp_path / "cortex.toml", config) == "a-token-of-16-chars"
    assert node_token(tmp_path / "cortex.toml", GatewayConfig()) is None


@pytest.mark.parametrize(("text", "said"), [(None, "no such file"), ("secret", "at least 16"), ("\xff", "not text")])
def test_a_token_that_cannot_be_used_stops_the_start_and_is_not_repeated(
    tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "token").write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigError, match=said) as caught:
        node_token(tmp_path / "cortex.toml", GatewayConfig(keys=KeySettings(node_token_file="token")))
    assert "keys.node_token_file" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_who_is_let_in_is_settled_at_the_start() -> None:
    edited = GatewayConfig(keys=KeySettings(auth="none", allowed_hosts=("a",)))

    assert restart_keys(GatewayConfig(), edited) == ("keys.auth", "keys.allowed_hosts")
