"""`fleet.toml`: the fleet that is simulated: machines, models and how they behave, and the gateway's own keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cortex.core.config import convert, load_toml
from cortex.core.errors import ConfigError
from cortex.core.model_spec import DEFAULT_ENGINE, ModelSpec, check_spec
from cortex.core.quantities import bytes_of, seconds_of
from cortex.fleet.devices import SIMULATED_ENGINE
from cortex.fleet.situation import Policy

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Duration = float | str
Size = int | str
Strategy = Literal["lru", "priority"]

# Nothing is fetched, so a model here may have no source at all.
NO_SOURCE = "/nowhere"

# What the options of a simulated model in models.toml say of its behaviour, by the key that says it here.
_OPTIONS = {
    "memory_mb": "memory",
    "load_seconds": "load_seconds",
    "tokens_per_second": "tokens_per_second",
    "prefill_tokens_per_second": "prefill_tokens_per_second",
    "slots": "slots",
    "fail_load": "fail_load",
}


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`devices` of a node: `count` of one kind. `speed` multiplies the rates that models state for a speed of 1."""

    name: str
    memory: Size
    speed: Positive = 1.0
    kind: Literal["cuda", "rocm", "cpu"] = "cuda"
    count: Count = 1


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[nodes.outages]]`, in time since the start; without `up_at` it is for good.

    A `crash` breaks every connection at once. A `restart` is announced: what is under way may end before it. A `drain`
    is the operator's doing: the node stays up and gets no new work.
    """

    down_at: Duration
    up_at: Duration | None = None
    how: Literal["crash", "restart", "drain"] = "crash"

    @property
    def begins(self) -> float:
        """When it begins, in seconds."""
        return seconds_of(self.down_at)

    @property
    def ends(self) -> float:
        """When it is over, in seconds; infinite for good."""
        return math.inf if self.up_at is None else seconds_of(self.up_at)


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An entry of `[[nodes]]`: `count` alike, called name-1, name-2 and so on if there are more than one."""

    name: Name
    devices: Annotated[list[Device], Meta(min_length=1)]
    count: Count = 1
    load_gb_per_second: Positive = 2.0
    unload_seconds: Seconds = 1.0
    outages: list[Outage] = []


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[models.simulation]`: what a model takes, and how fast it is on a device of speed 1.

    `memory` is what it really takes, `estimate` what nodes say before: the same unless given, or `"unknown"`. Without
    `load_seconds` a load lasts as long as reading the memory does. `tokens_per_second` are those of one request alone;
    each further one at once slows all of them down by `slowdown`, where 0.1 is ten per cent. A replica keeps the
    prompts of its last `cached_sessions` sessions: as many as it has slots unless given. `fail_load` is the error that
    each load ends in.
    """

    memory: Size | None = None
    estimate: Size | None = None
    load_seconds: Seconds | None = None
    tokens_per_second: Positive = 50.0
    prefill_tokens_per_second: Positive = 2000.0
    slots: Count = 4
    slowdown: Annotated[float, Meta(ge=0)] = 0.0
    cached_sessions: Annotated[int, Meta(ge=0)] | None = None
    fail_load: str = ""

    @property
    def memory_bytes(self) -> int:
        """What it takes in all."""
        return bytes_of(self.memory or 0)

    @property
    def estimate_bytes(self) -> int | None:
        """What nodes say that it takes, in all; None if they cannot tell."""
        if self.estimate == "unknown":
            return None
        return self.memory_bytes if self.estimate is None else bytes_of(self.estimate)


class DescribedModel(ModelSpec, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """An entry of `[[models]]`: the keys of models.toml, and a table that the gateway knows nothing of."""

    simulation: Behaviour = Behaviour()


class Eviction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[eviction]`, as in cortex.toml."""

    strategy: Strategy = "lru"
    defrag_after_cycles: Annotated[int, Meta(ge=0)] = 0
    drain_after: Duration = 10.0
    restore_after: Duration = 120.0
    spread_after: Duration = 3.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[limits]`: those of cortex.toml that a simulation knows."""

    poll_seconds: PositiveSeconds = 2.0
    misses: Count = 3
    drain_seconds: Seconds = 30.0
    queue_depth: Annotated[int, Meta(ge=0)] = 64
    queue_seconds: PositiveSeconds = 300.0
    restart_grace_seconds: Seconds = 30.0


class Delays(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[delays]`: how long a node takes to answer a call, and to say what a model needs; how often time is told."""

    answer_seconds: Seconds = 0.005
    estimate_seconds: Seconds = 0.5
    tick_seconds: PositiveSeconds = 0.5


class _Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`models_config`: a real models.toml."""

    models: list[ModelSpec] = []


class FleetFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. `simulation` describes, by id, models of `models_config`, whose file knows no such table."""

    nodes: Annotated[list[Machine], Meta(min_length=1)]
    models: list[DescribedModel] = []
    models_config: str | None = None
    simulation: dict[str, Behaviour] = {}
    eviction: Eviction = Eviction()
    limits: Limits = Limits()
    delays: Delays = Delays()


_Written = tuple[str, ModelSpec, Behaviour]
"""Where a model is written, the model, and what is written with it of its behaviour."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet to simulate: each machine once, the catalogue, and how its models behave."""

    name: str
    machines: tuple[Machine, ...]
    catalogue: Mapping[str, ModelSpec]
    aliases: Mapping[str, str]
    behaviours: Mapping[str, Behaviour]
    policy: Policy
    limits: Limits
    delays: Delays


def load_fleet(path: Path) -> Fleet:
    """Return the fleet that the file at *path* describes. Raises ConfigError with the file and the key."""
    file = load_toml(path, FleetFile)
    models: list[_Written] = [(f"{path}: models[{i}]", m, m.simulation) for i, m in enumerate(file.models)]
    if file.models_config is not None:
        other = path.parent / Path(file.models_config).expanduser()
        models += [(f"{other}: models[{i}]", m, Behaviour()) for i, m in enumerate(load_toml(other, _Catalogue).models)]
    strange = file.simulation.keys() - {model.id for _, model, _ in models}
    if strange:
        raise ConfigError(f"{path}: simulation.{min(strange)!r}: no model has this id")
    catalogue, behaviours = _read_models(models, file.simulation)
    machines = _machines(file, path)
    _check_nodes(catalogue, {machine.name for machine in machines}, path)
    return Fleet(
        name=path.stem,
        machines=machines,
        catalogue=catalogue,
        aliases=_aliases(catalogue, path),
        behaviours=behaviours,
        policy=_policy(file, path),
        limits=file.limits,
        delays=file.delays,
    )


def _read_models(
    models: list[_Written], by_id: Mapping[str, Behaviour]
) -> tuple[dict[str, ModelSpec], dict[str, Behaviour]]:
    """Return the catalogue and the behaviours of *models*."""
    catalogue: dict[str, ModelSpec] = {}
    behaviours: dict[str, Behaviour] = {}
    for where, model, own in models:
        check_spec(model if model.source else msgspec.structs.replace(model, source=NO_SOURCE), where)
        if model.id in catalogue:
            raise ConfigError(f"{where}: {model.id!r} is listed twice")
        catalogue[model.id] = _real(model)
        behaviours[model.id] = _behaviour(where, model, own if own != Behaviour() else by_id.get(model.id))
    return catalogue, behaviours


def _real(model: ModelSpec) -> ModelSpec:
    """Return *model* as the decisions see it: a simulated one stands for one that any device can serve."""
    keys = {field: getattr(model, field) for field in ModelSpec.__struct_fields__}
    if model.engine_name == SIMULATED_ENGINE:
        keys |= {"engine": DEFAULT_ENGINE, "harness": None}
    return ModelSpec(**keys)


def _behaviour(where: str, model: ModelSpec, given: Behaviour | None) -> Behaviour:
    """Return how *model* behaves: as *given*, else as its options or `vram_mb` say."""
    keys: dict[str, Any] = {} if given is None else msgspec.structs.asdict(given)
    if given is None and model.engine_name == SIMULATED_ENGINE:
        keys = {_OPTIONS[key]: value for key, value in model.options.items() if key in _OPTIONS}
        keys.setdefault("memory", 1024)
    if keys.get("memory") is None:
        keys["memory"] = model.vram_mb
    behaviour = convert(keys, Behaviour, where=f"{where}: options" if given is None else f"{where}: simulation")
    for key in ("memory", "estimate"):
        size = getattr(behaviour, key)
        if size is not None and size != "unknown":
            _positive_bytes(size, f"{where}: {key}")
    if behaviour.memory is None:
        raise ConfigError(
            f'{where}: nothing says how {model.id!r} behaves: add [models.simulation] with memory = "6 GB" below it, '
            f'or [simulation."{model.id}"] in the fleet\'s file'
        )
    return behaviour


def _positive_bytes(size: Size, where: str) -> None:
    try:
        found = bytes_of(size)
    except ValueError as error:
        raise ConfigError(f"{where} = {error}") from None
    if found <= 0:
        raise ConfigError(f"{where} = {size!r}: expected more than 0")


def _aliases(catalogue: Mapping[str, ModelSpec], path: Path) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for spec in catalogue.values():
        for alias in spec.aliases:
            if alias in catalogue or alias in aliases:
                raise ConfigError(f"{path}: alias {alias!r} of {spec.id!r} is already a name of another model")
            aliases[alias] = spec.id
    return aliases


def _machines(file: FleetFile, path: Path) -> tuple[Machine, ...]:
    machines: list[Machine] = []
    for index, node in enumerate(file.nodes):
        where = f"{path}: nodes[{index}]"
        for at, device in enumerate(node.devices):
            _positive_bytes(device.memory, f"{where}.devices[{at}].memory")
        _check_outages(node.outages, where)
        names = [node.name] if node.count == 1 else [f"{node.name}-{number}" for number in range(1, node.count + 1)]
        machines += [msgspec.structs.replace(node, name=name, count=1) for name in names]
    names = [machine.name for machine in machines]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: nodes: the name {twice!r} is used twice")
    return tuple(machines)


def _check_outages(outages: list[Outage], where: str) -> None:
    """Raise ConfigError unless *outages* are in order of time and apart."""
    free_from = 0.0
    for index, outage in enumerate(outages):
        at = f"{where}.outages[{index}]"
        try:
            begins, ends = outage.begins, outage.ends
        except ValueError as error:
            raise ConfigError(f"{at}: {error}") from None
        if begins < free_from:
            raise ConfigError(f"{at}.down_at = {outage.down_at!r}: expected a time after the outage before it")
        if ends <= begins:
            raise ConfigError(f"{at}.up_at = {outage.up_at!r}: expected a time after down_at = {outage.down_at!r}")
        free_from = ends


def _check_nodes(catalogue: Mapping[str, ModelSpec], names: set[str], path: Path) -> None:
    for spec in catalogue.values():
        strange = spec.allowed_nodes - names
        if strange:
            raise ConfigError(f"{path}: {spec.id!r} may run on {min(strange)!r}, which is none of the nodes here")


def _policy(file: FleetFile, path: Path) -> Policy:
    eviction, seconds = file.eviction, {}
    for key in ("drain_after", "restore_after", "spread_after"):
        value = getattr(eviction, key)
        try:
            seconds[key] = seconds_of(value)
        except ValueError as error:
            raise ConfigError(f"{path}: eviction.{key} = {error}") from None
        if seconds[key] < 0:
            raise ConfigError(f"{path}: eviction.{key} = {value!r}: expected at least 0")
    return Policy(
        strategy=eviction.strategy,
        defrag_after_cycles=eviction.defrag_after_cycles,
        queue_depth=file.limits.queue_depth,
        queue_seconds=file.limits.queue_seconds,
        restart_grace=file.limits.restart_grace_seconds,
        **seconds,
    )
