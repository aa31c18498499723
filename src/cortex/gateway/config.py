"""`cortex.toml`: where to listen, which nodes there are, how long to wait for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from cortex.core.config import load_toml
from cortex.core.errors import ConfigError

Seconds = Annotated[float, Meta(gt=0)]


class Gateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[gateway]`: addresses as host:port."""

    listen: str = "127.0.0.1:31313"
    metrics_listen: str = "127.0.0.1:31314"
    log: str = "info"
    log_format: Literal["auto", "json", "text"] = "auto"


class Eviction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[eviction]`: read and checked; the gateway does not evict yet, and says so when it starts."""

    strategy: Literal["lru", "priority"] = "lru"
    defrag_after_cycles: Annotated[int, Meta(ge=0)] = 0


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
    """Bounds on waiting, all of them idle limits: nothing limits the length of an answer."""

    poll_seconds: Seconds = 2.0
    poll_timeout_seconds: Seconds = 3.0
    misses: Annotated[int, Meta(ge=1)] = 3
    connect_seconds: Seconds = 3.0
    stall_seconds: Seconds = 15.0
    drain_seconds: Annotated[float, Meta(ge=0)] = 30.0


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    gateway: Gateway = Gateway()
    eviction: Eviction = Eviction()
    limits: Limits = Limits()
    neurons: list[NeuronAddress] = []
    models_config: str | None = None


def load_config(path: Path, env: Mapping[str, str]) -> GatewayConfig:
    """Return the file at *path* after `CORTEX_…` overrides from *env*. Raises ConfigError."""
    config = load_toml(path, GatewayConfig, env=env, env_prefix="CORTEX_")
    names: set[str] = set()
    for index, neuron in enumerate(config.neurons):
        where = f"{path}: neurons[{index}]"
        if not _is_endpoint(neuron.endpoint):
            raise ConfigError(f"{where}.endpoint = {neuron.endpoint!r}: expected http://host:port")
        if neuron.name in names:
            raise ConfigError(f"{where}.name = {neuron.name!r}: used twice")
        names.add(neuron.name)
    return config


def _is_endpoint(text: str) -> bool:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    plain = url.path in ("", "/") and not url.query and not url.fragment and "@" not in url.netloc
    return url.scheme == "http" and bool(url.hostname) and port != 0 and plain


def catalogue_path(path: Path, config: GatewayConfig) -> Path:
    """Return where the catalogue is: `models_config`, or `models.toml`, beside the configuration file at *path*."""
    return path.parent / Path(config.models_config or "models.toml").expanduser()
