"""`neuron.toml`: where to listen and to whom, where models are kept, what to load at the start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cortex.core.config import load_toml
from cortex.core.errors import ConfigError
from cortex.core.model_spec import ModelSpec, check_spec
from cortex.core.secrets import read_secret
from cortex.wire.node_auth import check_token

LOOPBACK = "127.0.0.1"
Port = Annotated[int, Meta(ge=0, le=65535)]


class SimulatedDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device that does not exist, for trying a fleet without GPUs; `kind` is always `simulated` in listings."""

    name: str
    memory_mb: Annotated[int, Meta(ge=1)]


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where model files come from and are kept."""

    cache: str | None = None
    hub_endpoint: str | None = None
    offline: bool = False


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds on waiting. Idle limits only: nothing ever limits the length of an answer.

    An engine has `first_token_seconds` for the prompt and what waits before it, then `idle_token_seconds` for each
    further token.
    """

    queue_depth: Annotated[int, Meta(ge=0)] = 64
    load_seconds: Annotated[float, Meta(gt=0)] = 1800.0
    drain_seconds: Annotated[float, Meta(ge=0)] = 30.0
    heartbeat_seconds: Annotated[float, Meta(gt=0)] = 10.0
    first_token_seconds: Annotated[float, Meta(gt=0)] = 1800.0
    idle_token_seconds: Annotated[float, Meta(gt=0)] = 300.0


class Harness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of `[[harnesses]]`, the original's list of engines to offer."""

    name: str


class NeuronConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file; every key has a default.

    `default_models` are loaded at the start. `cpu_devices` is how many devices the CPU counts as, each with an equal
    part of the RAM: what is split over several devices is split over them.
    `host` is 127.0.0.1 unless the node has joined a fleet over the network; `state` is the directory for what it was
    told when it joined. `token_file` and `state` are relative to the file. `allowed_hosts` are the names that this
    machine may be called by; without it any name with a token, and its own without. `spares` is how many processes of
    each engine wait for a model; by default one of the default engine, if that is installed.
    """

    name: str | None = None
    host: str | None = None
    port: Port = 13131
    state: str | None = None
    token_file: str | None = None
    allowed_hosts: tuple[str, ...] | None = None
    log: str = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    models: Models = Models()
    limits: Limits = Limits()
    harnesses: list[Harness] = []
    spares: dict[str, Annotated[int, Meta(ge=0, le=16)]] | None = None
    default_models: list[ModelSpec] = []
    simulated_devices: list[SimulatedDevice] = []
    cpu_devices: Annotated[int, Meta(ge=1, le=64)] = 1

    @property
    def cache(self) -> Path:
        """The directory that model files are kept in."""
        return Path(self.models.cache).expanduser() if self.models.cache else default_cache(os.environ)

    @property
    def state_directory(self) -> Path:
        """The directory for what the node was told: without the key, `cortex/neuron` where the user's state is."""
        if self.state is not None:
            return Path(self.state).expanduser()
        return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "cortex" / "neuron"


def default_cache(env: Mapping[str, str]) -> Path:
    """Return `$CORTEX_CACHE`, or `cortex` in the user's cache directory."""
    if env.get("CORTEX_CACHE"):
        return Path(env["CORTEX_CACHE"]).expanduser()
    return Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cortex"


def load_config(path: Path, env: Mapping[str, str]) -> NeuronConfig:
    """Return the file at *path* after `NEURON_…` overrides from *env*. Raises ConfigError."""
    config = load_toml(path, NeuronConfig, env=env, env_prefix="NEURON_")
    seen: set[str] = set()
    for index, spec in enumerate(config.default_models):
        check_spec(spec, f"{path}: default_models[{index}]")
        if spec.id in seen:
            raise ConfigError(f"{path}: default_models[{index}]: {spec.id!r} is listed twice")
        seen.add(spec.id)
    relative = {key: getattr(config, key) for key in ("token_file", "state")}
    placed = {key: str(path.parent / Path(file).expanduser()) for key, file in relative.items() if file is not None}
    return msgspec.structs.replace(config, **placed)


def node_token(config: NeuronConfig) -> str | None:
    """Return what a gateway must show, if it must show anything. Raises ConfigError."""
    if config.token_file is None:
        return None
    return check_token(read_secret(Path(config.token_file).expanduser(), "token_file"), "token_file")
