"""What may be served: one `ModelSpec` a model, the same for a preload and for a cold load."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from cortex.core.errors import ConfigError
from cortex.core.ids import is_model_id
from cortex.core.sources import parse_source

DEFAULT_ENGINE = "llamacpp"


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One model of the catalogue.

    `source` defaults to the hub repository named by `id`; `context` is in tokens per request; `devices` is how many to
    split over (`min_devices` is the original's word for it), and `min_device_vram_mb` is what each of them must have in
    all; `vram_mb` is used where neither a measurement nor the engine's own estimate is at hand; `options` are the
    engine's own and checked by it. `nodes` says where the model may run; `pinned_on` says the same and protects it
    there from being displaced.
    """

    id: str
    source: str | None = None
    engine: str | None = None
    harness: str | None = None
    quant: str | None = None
    context: int | None = None
    devices: int | Literal["auto"] = "auto"
    min_devices: int | None = None
    min_device_vram_mb: int | None = None
    vram_mb: int | None = None
    nodes: tuple[str, ...] = ()
    pinned: bool = False
    pinned_on: tuple[str, ...] = ()
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
    def wanted_devices(self) -> int | Literal["auto"]:
        """How many devices to load on."""
        return self.min_devices if self.devices == "auto" and self.min_devices is not None else self.devices

    @property
    def device_floor_bytes(self) -> int:
        """What each device must have in all, used or not."""
        return (self.min_device_vram_mb or 0) << 20

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
    for key in ("min_devices", "vram_mb", "min_device_vram_mb"):
        value = getattr(spec, key)
        if value is not None and value < 1:
            raise ConfigError(f"{where}: {key} = {value}: expected at least 1")
    if spec.engine_name != "simulated":
        try:
            parse_source(spec.source_name)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    return spec
