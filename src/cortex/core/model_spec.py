"""What may be served: one `ModelSpec` a model, the same for a preload and for a cold load."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from cortex.core.errors import ConfigError
from cortex.core.ids import is_model_id
from cortex.core.quantities import bytes_of, seconds_of
from cortex.core.sources import parse_source

DEFAULT_ENGINE = "llamacpp"
DEFAULT_PRIORITY = 100


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One model of the catalogue.

    What to load: `source` defaults to the hub repository named by `id`; `harness` is the original's word for `engine`;
    `context` is in tokens per request; `options` are the engine's own and checked by it.

    Where: `devices` is how many to split over (`min_devices` is the original's word for it), and `min_device_memory`
    is what each of them must have in all, as `"24 GB"` or in MiB (`min_device_vram_mb` is the original's word);
    `vram_mb` is used where neither a measurement nor the engine's own estimate is at hand. `nodes` says where the
    model may run; `pinned_on` says the same, and that it is never evicted there; `pinned` is never evicted at all.

    How long: a model of a higher `priority` is never displaced for one of a lower. `ttl`, as `"15m"` or in seconds,
    unloads what nobody has used for so long, down to `min_resident` replicas; those are loaded unasked, and come back
    when they were displaced. Under a burst up to `max_replicas` are loaded where room is free.
    """

    id: str
    source: str | None = None
    engine: str | None = None
    harness: str | None = None
    quant: str | None = None
    context: int | None = None
    devices: int | Literal["auto"] = "auto"
    min_devices: int | None = None
    min_device_memory: int | str | None = None
    min_device_vram_mb: int | None = None
    vram_mb: int | None = None
    nodes: tuple[str, ...] = ()
    pinned: bool = False
    pinned_on: tuple[str, ...] = ()
    priority: int = DEFAULT_PRIORITY
    ttl: float | str | None = None
    min_resident: int = 0
    max_replicas: int = 1
    aliases: tuple[str, ...] = ()
    options: dict[str, Any] = {}

    @property
    def engine_name(self) -> str:
        """The engine to load it with; `harness` is the original's word for the same."""
        return self.engine or self.harness or DEFAULT_ENGINE

    @property
    def source_name(self) -> str:
        """Where its files come from, as text."""
        return self.source or f"hf:{self.id}"

    @property
    def option_sources(self) -> tuple[str, ...]:
        """The sources of further files that its options name: a vision projector, a draft model, LoRA adapters."""
        lora = self.options.get("lora")
        adapters = lora if isinstance(lora, list | tuple) else ()
        named = [self.options.get("mmproj"), self.options.get("draft")]
        named += [adapter.get("source") if isinstance(adapter, dict) else adapter for adapter in adapters]
        return tuple(dict.fromkeys(source for source in named if isinstance(source, str)))

    @property
    def wanted_devices(self) -> int | Literal["auto"]:
        """How many devices to load on."""
        return self.min_devices if self.devices == "auto" and self.min_devices is not None else self.devices

    @property
    def device_floor_bytes(self) -> int:
        """What each device must have in all, used or not."""
        return (
            (self.min_device_vram_mb or 0) << 20 if self.min_device_memory is None else bytes_of(self.min_device_memory)
        )

    @property
    def ttl_seconds(self) -> float | None:
        """After how many idle seconds it is unloaded; None is never."""
        return None if self.ttl is None else seconds_of(self.ttl)

    def is_pinned_on(self, node: str) -> bool:
        """Whether it is never evicted from *node*."""
        return self.pinned or node in self.pinned_on

    @property
    def allowed_nodes(self) -> frozenset[str]:
        """The nodes it may run on; empty means any."""
        return frozenset(self.nodes) | frozenset(self.pinned_on)


def check_spec(spec: ModelSpec, where: str) -> ModelSpec:
    """Return *spec* if its values make sense together; else raise ConfigError naming *where* and the key."""
    for name in (spec.id, *spec.aliases):
        if not is_model_id(name):
            raise ConfigError(f"{where}: {name!r} is not a model id (letters, digits, . _ : @ + - and '/')")
    if spec.engine and spec.harness and spec.engine != spec.harness:
        raise ConfigError(f"{where}: engine = {spec.engine!r} and harness = {spec.harness!r}: keep one of the two")
    if spec.engine_name == "candle":
        raise ConfigError(f"{where}: engine 'candle' belongs to the original system; use {DEFAULT_ENGINE!r}")
    if spec.context is not None and spec.context < 1:
        raise ConfigError(f"{where}: context = {spec.context}: expected a number of tokens, at least 1")
    if isinstance(spec.devices, int) and spec.devices < 1:
        raise ConfigError(f'{where}: devices = {spec.devices}: expected a number of devices, at least 1, or "auto"')
    if spec.min_device_memory is not None and spec.min_device_vram_mb is not None:
        raise ConfigError(f"{where}: min_device_memory and min_device_vram_mb mean the same: keep one of the two")
    for key, parse in (("ttl", seconds_of), ("min_device_memory", bytes_of)):
        value = getattr(spec, key)
        try:
            wrong = value is not None and parse(value) <= 0
        except ValueError as error:
            raise ConfigError(f"{where}: {key} = {error}") from None
        if wrong:
            raise ConfigError(f"{where}: {key} = {value!r}: expected more than 0")
    if spec.min_resident < 0:
        raise ConfigError(f"{where}: min_resident = {spec.min_resident}: expected a number of replicas, at least 0")
    if spec.max_replicas < max(1, spec.min_resident):
        raise ConfigError(
            f"{where}: max_replicas = {spec.max_replicas}: expected at least 1, and not less than min_resident"
        )
    for key in ("min_devices", "vram_mb", "min_device_vram_mb"):
        value = getattr(spec, key)
        if value is not None and value < 1:
            raise ConfigError(f"{where}: {key} = {value}: expected at least 1")
    if spec.engine_name != "simulated":
        for source in (spec.source_name, *spec.option_sources):
            try:
                parse_source(source)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
    return spec
