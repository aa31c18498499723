"""The options of a GGUF model, typed; one that is not known, or of another type or range, is refused by name."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cortex.engines.base import LoadError
from cortex.wire.engine_api import EngineSpec

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
Split = Literal["layer", "row", "tensor", "none"]

_Share = Annotated[float, Meta(ge=0.0, le=1e6)]


class Adapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A LoRA adapter, and how strongly it is applied."""

    source: str
    scale: Annotated[float, Meta(ge=-100.0, le=100.0)] = 1.0


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model's `options` may say; what it leaves out is decided by `llamacpp_memory.shape_of` and per device.

    `batch` is in tokens a prefill step, `cache_ram_mib` in MiB of host memory for prompts that lost their slot. The
    shares of `tensor_split` and `main_device` count the devices that the model goes on, by their index on the node.
    """

    slots: Annotated[int, Meta(ge=1, le=256)] | None = None
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    batch: Annotated[int, Meta(ge=8, le=65536)] | None = None
    embeddings: bool | None = None
    matryoshka: bool = False
    kv_type: KvType = "f16"
    flash_attention: bool | None = None
    cache_ram_mib: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None
    split: Split = "layer"
    tensor_split: tuple[_Share, ...] = ()
    main_device: Annotated[int, Meta(ge=0, le=63)] = 0
    mmproj: str | bool = True
    image_tokens: Annotated[int, Meta(ge=1, le=65536)] | None = None
    lora: tuple[Adapter | str, ...] = ()
    draft: str | None = None
    draft_tokens: Annotated[int, Meta(ge=1, le=64)] | None = None
    ngram: bool = False

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The LoRA adapters, those named by their source alone at full strength."""
        return tuple(each if isinstance(each, Adapter) else Adapter(each) for each in self.lora)


def options_of(spec: EngineSpec) -> Options:
    """Return the options of *spec*. Raises LoadError naming the one that is wrong, alone or with another."""
    for key in spec.options:
        if key not in Options.__struct_fields__:
            names = ", ".join(sorted(Options.__struct_fields__))
            raise LoadError(f"options.{key} is not an option of engine {spec.engine!r}; known: {names}")
    try:
        options = msgspec.convert(spec.options, Options)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        key = where.rstrip("`")
        value = spec.options.get(key.partition("[")[0].partition(".")[0])
        raise LoadError(f"options.{key} = {value!r:.60}: {what[:1].lower()}{what[1:]}") from None
    _check_together(options, len(spec.devices))
    return options


def _check_together(options: Options, devices: int) -> None:
    if options.kv_type not in ("f32", "f16", "bf16") and options.flash_attention is False:
        raise LoadError(
            f"options.kv_type = {options.kv_type!r} needs flash attention: leave out flash_attention = false"
        )
    if options.draft_tokens is not None and options.draft is None:
        raise LoadError("options.draft_tokens is for a draft model: name one with draft")
    if not devices:
        return  # only a vocabulary
    if options.main_device >= devices:
        raise LoadError(f"options.main_device = {options.main_device}: the model goes on {devices} device(s), from 0")
    if options.tensor_split and len(options.tensor_split) != devices:
        raise LoadError(f"options.tensor_split has {len(options.tensor_split)} shares, for {devices} device(s)")
    if options.tensor_split and not any(options.tensor_split):
        raise LoadError("options.tensor_split gives no device anything")
