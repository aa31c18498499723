"""`cortex.toml`: where to listen and to whom, which nodes there are, how long to wait, how models share memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from cortex.core.config import load_toml
from cortex.core.errors import ConfigError
from cortex.core.logging import LevelFilter
from cortex.core.quantities import bytes_of, seconds_of
from cortex.core.secrets import read_secret
from cortex.fleet.situation import Policy
from cortex.gateway.keys.listening import Auth
from cortex.wire.node_auth import check_token
from cortex.wire.openai import MAX_IMAGE_BYTES

YEAR_SECONDS = 31_536_000
Seconds = Annotated[float, Meta(gt=0, le=YEAR_SECONDS)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=YEAR_SECONDS)]
Count = Annotated[int, Meta(ge=0)]
Duration = float | str
Size = Annotated[str, Meta(pattern=r"[A-Za-z]\s*\Z")]

# What takes effect when the file is edited; the rest does at the next start.
_LIVE = frozenset({"neurons", "eviction", "limits", "gateway.log"})


class Gateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[gateway]`: addresses as host:port. `state` is the directory for what operators told the gateway.

    With `announce` it announces itself by mDNS where it listens, for as long as a node is invited and has not joined.
    """

    listen: str = "127.0.0.1:31313"
    metrics_listen: str = "127.0.0.1:31314"
    log: str = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    state: str | None = None
    announce: bool = True


class Eviction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[eviction]`: who makes room for whom, and how soon; durations in seconds or as text. As `Policy` explains."""

    strategy: Literal["lru", "priority"] = "lru"
    defrag_after_cycles: Count = 0
    drain_after: Duration = 10.0
    restore_after: Duration = 120.0
    spread_after: Duration = 3.0


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[keys]`: who is let in, and how the gateway shows itself to its nodes. Files are relative to the configuration.

    `allowed_hosts` are the names that clients may call it by; without it any name with keys, and its own without.
    """

    file: str | None = None
    auth: Auth = "auto"
    allowed_hosts: tuple[str, ...] | None = None
    node_token_file: str | None = None


class NeuronAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An entry of `[[neurons]]`."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
    endpoint: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the endpoint."""
        url = urlsplit(self.endpoint)
        return url.hostname or "", url.port or 80


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds on waiting: nothing limits the length of an answer.

    Up to `queue_depth` requests wait for each replica, for at most `queue_seconds`. Requests that only
    a node can serve which announced that it leaves wait `restart_grace_seconds` for it to come back.
    """

    poll_seconds: Seconds = 2.0
    poll_timeout_seconds: Seconds = 3.0
    misses: Annotated[int, Meta(ge=1)] = 3
    connect_seconds: Seconds = 3.0
    stall_seconds: Seconds = 15.0
    drain_seconds: SecondsOrZero = 30.0
    queue_depth: Count = 256
    queue_seconds: Seconds = 300.0
    restart_grace_seconds: SecondsOrZero = 30.0


class Images(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[images]`: whether images of chats may be named by URL, and what the gateway then fetches for each at most."""

    allow_urls: bool = False
    max_bytes: Size = "20 MB"
    timeout_seconds: Seconds = 10.0


class Responses(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[responses]`: for how long responses are stored, how many, and of what size together; `keep = 0` stores none."""

    keep: Duration = "7d"
    max_responses: Annotated[int, Meta(ge=1)] = 10_000
    max_bytes: Size = "1 GB"


class TraceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[trace]`: of how many requests the story is kept, and for how long the figures of each minute.

    `otlp_endpoint` is the URL of an OpenTelemetry collector that is sent them, by OTLP over HTTP.
    """

    keep: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000
    history: Duration = "24h"
    otlp_endpoint: str | None = None


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    gateway: Gateway = Gateway()
    eviction: Eviction = Eviction()
    limits: Limits = Limits()
    keys: KeySettings = KeySettings()
    images: Images = Images()
    responses: Responses = Responses()
    trace: TraceSettings = TraceSettings()
    neurons: list[NeuronAddress] = []
    models_config: str | None = None

    def policy(self) -> Policy:
        """Return how the operator wants memory to be shared out."""
        return Policy(
            strategy=self.eviction.strategy,
            drain_after=seconds_of(self.eviction.drain_after),
            restore_after=seconds_of(self.eviction.restore_after),
            spread_after=seconds_of(self.eviction.spread_after),
            defrag_after_cycles=self.eviction.defrag_after_cycles,
            queue_depth=self.limits.queue_depth,
            queue_seconds=self.limits.queue_seconds,
            restart_grace=self.limits.restart_grace_seconds,
        )


def load_config(path: Path, env: Mapping[str, str]) -> GatewayConfig:
    """Return the file at *path* after `CORTEX_…` overrides from *env*. Raises ConfigError."""
    config = load_toml(path, GatewayConfig, env=env, env_prefix="CORTEX_")
    for key in ("drain_after", "restore_after", "spread_after"):
        _check_duration(getattr(config.eviction, key), f"{path}: eviction.{key}")
    _check_duration(config.responses.keep, f"{path}: responses.keep")
    _check_duration(config.trace.history, f"{path}: trace.history")
    _check_url(config.trace.otlp_endpoint, f"{path}: trace.otlp_endpoint")
    _check_size(config.responses.max_bytes, f"{path}: responses.max_bytes")
    _check_size(config.images.max_bytes, f"{path}: images.max_bytes", MAX_IMAGE_BYTES)
    try:
        LevelFilter(config.gateway.log)
    except ConfigError as error:
        raise ConfigError(f"{path}: gateway.log: {error}") from None
    names: set[str] = set()
    for index, neuron in enumerate(config.neurons):
        where = f"{path}: neurons[{index}]"
        if not is_endpoint(neuron.endpoint):
            raise ConfigError(f"{where}.endpoint = {neuron.endpoint!r}: expected http://host:port")
        if neuron.name in names:
            raise ConfigError(f"{where}.name = {neuron.name!r}: used twice")
        names.add(neuron.name)
    return config


def _check_duration(value: Duration, key: str) -> None:
    try:
        negative = seconds_of(value) < 0
    except ValueError as error:
        raise ConfigError(f"{key} = {error}") from None
    if negative:
        raise ConfigError(f"{key} = {value!r}: expected at least 0")


def _check_size(value: str, key: str, most: int | None = None) -> None:
    try:
        size = bytes_of(value)
    except ValueError as error:
        raise ConfigError(f"{key} = {error}") from None
    if size < 1 or (most is not None and size > most):
        expected = "at least 1 byte" if most is None else f"1 to {most} bytes, as a node takes them"
        raise ConfigError(f"{key} = {value!r}: expected {expected}")


def _check_url(value: str | None, key: str) -> None:
    if value is not None and not value.startswith(("http://", "https://")):
        raise ConfigError(f"{key} = {value!r}: expected a URL, such as http://127.0.0.1:4318/v1/traces")


def is_endpoint(text: str) -> bool:
    """Return whether *text* is where a node may be: http://host:port, and nothing more."""
    if not text.isprintable() or " " in text:
        return False
    try:
        url = urlsplit(text)
        port = url.port
        (url.hostname or "").encode("idna")  # as a look-up of the name does it
    except ValueError:
        return False
    plain = url.path in ("", "/") and not url.query and not url.fragment and "@" not in url.netloc
    return url.scheme == "http" and bool(url.hostname) and port != 0 and plain


def restart_keys(running: GatewayConfig, edited: GatewayConfig) -> tuple[str, ...]:
    """Return the keys whose values in *edited* take effect only when the gateway that is *running* starts again."""
    before, after = _flat(running), _flat(edited)
    return tuple(key for key in after if key not in _LIVE and before[key] != after[key])


def _flat(config: GatewayConfig) -> dict[str, Any]:
    own = msgspec.structs.asdict(config)
    tables = {
        name: msgspec.structs.asdict(own.pop(name)) for name in ("gateway", "keys", "images", "responses", "trace")
    }
    return {**{f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}, **own}


def catalogue_path(path: Path, config: GatewayConfig) -> Path:
    """Return where the catalogue is: `models_config`, or `models.toml`, beside the configuration file at *path*."""
    return path.parent / Path(config.models_config or "models.toml").expanduser()


def key_file(path: Path, config: GatewayConfig) -> Path:
    """Return where the keys are: `keys.file`, or `keys.toml`, beside the configuration file at *path*."""
    return path.parent / Path(config.keys.file or "keys.toml").expanduser()


def node_token(path: Path, config: GatewayConfig) -> str | None:
    """Return what the gateway shows to its nodes, if there is such a token. Raises ConfigError."""
    if config.keys.node_token_file is None:
        return None
    key = f"{path}: keys.node_token_file"
    return check_token(read_secret(path.parent / Path(config.keys.node_token_file).expanduser(), key), key)


def state_directory(path: Path, config: GatewayConfig, env: Mapping[str, str]) -> Path:
    """Return where the gateway keeps its state: `gateway.state`, beside the file at *path* if relative.

    Without that key it is `cortex` in $XDG_STATE_HOME, else in ~/.local/state.
    """
    if config.gateway.state is not None:
        return path.parent / Path(config.gateway.state).expanduser()
    return Path(env.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "cortex"
