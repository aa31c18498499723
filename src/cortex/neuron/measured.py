"""Own what models were measured to take at most, by device, across restarts.

It is one JSON file in the cache directory: a few hundred entries, read once, and an operator may look into it or delete
it. Neurons that share the directory share the file: it is merged under a lock, and replaced at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
from anyio import to_thread

from cortex.core.logging import get_logger
from cortex.neuron.sources.files import write_json
from cortex.neuron.sources.lock import lock_in_thread

log = get_logger(__name__)

MAX_ENTRIES = 1000
# What a process holds swings by a few pages from reading to reading; only more than that is worth a write.
WORTH_BYTES = 16 << 20
# Another neuron that hangs with the lock must not hold up an unload.
SAVE_SECONDS = 5.0


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's memory depends on.

    *kinds* and *totals_gib* are those of its devices, in their order: an engine may take more of a larger one. Whole
    gibibytes, since what a system counts as its own changes with its kernel.
    """

    source: str
    engine: str
    engine_version: str
    kinds: tuple[str, ...]
    totals_gib: tuple[int, ...] = ()
    quant: str | None = None
    context: int | None = None
    options: dict[str, Any] = {}


class Peak(msgspec.Struct, frozen=True):
    """The most bytes that a footprint was seen to take on each of its devices."""

    of: Footprint
    bytes: tuple[int, ...]


class _File(msgspec.Struct, frozen=True):
    version: Literal[1]
    peaks: list[Peak]


_Table = Mapping[bytes, Peak]


class Measured:
    """The table: `note` what was seen, `get` it for the next load, `save` what is new."""

    def __init__(self, path: Path) -> None:
        """Read *path*; blocks. One that cannot be read is a warning, and is set aside as `….broken`."""
        self._path = path
        self._table: _Table = _read(path)
        self._is_saved = True

    def get(self, footprint: Footprint) -> tuple[int, ...] | None:
        """Return the peak on each device in bytes; None if it was never measured."""
        peak = self._table.get(key_of(footprint))
        return None if peak is None else peak.bytes

    def note(self, footprint: Footprint, bytes_: Sequence[int]) -> None:
        """Remember *bytes_* where they are more than was known; a little more is as good as nothing new."""
        known = self.get(footprint)
        if known is None or any(now > before + WORTH_BYTES for now, before in zip(bytes_, known, strict=True)):
            self._table = merge(self._table, {key_of(footprint): Peak(footprint, tuple(bytes_))})
            self._is_saved = False

    async def save(self) -> None:
        """Write what is new, if anything is, within a bound; a failure is a warning, and the next call tries again."""
        if self._is_saved:
            return
        self._is_saved = True
        try:
            with anyio.fail_after(SAVE_SECONDS):
                stored = await to_thread.run_sync(_merge_into, self._path, self._table)
        except (OSError, TimeoutError) as error:
            self._is_saved = False
            log.warning("measurements_not_saved", path=str(self._path), error=str(error) or "the file stays locked")
        else:
            self._table = merge(stored, self._table)


def merge(one: _Table, other: _Table) -> dict[bytes, Peak]:
    """Return the peaks of both, the greater where both have one, what is *other*'s last; the oldest are dropped."""
    merged = {key: peak for key, peak in one.items() if key not in other}
    for key, peak in other.items():
        known = one.get(key)
        merged[key] = peak if known is None else Peak(peak.of, tuple(map(max, known.bytes, peak.bytes)))
    return dict(list(merged.items())[-MAX_ENTRIES:])


def key_of(footprint: Footprint) -> bytes:
    """Return what tells *footprint* from others, whatever the order of its options."""
    return msgspec.json.encode(footprint, order="sorted")


def _merge_into(path: Path, table: _Table) -> dict[bytes, Peak]:
    """Add *table* to what is at *path*, and return all; runs in a thread."""
    with lock_in_thread(path.with_name(f".{path.name}.lock")):
        merged = merge(_read(path), table)
        write_json(path, _File(1, list(merged.values())))
    return merged


def _read(path: Path) -> dict[bytes, Peak]:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return {}
    except OSError as error:
        log.warning("measurements_unreadable", path=str(path), error=str(error))
        return {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _set_aside(path, error)
        return {}
    return {key_of(peak.of): peak for peak in file.peaks if len(peak.bytes) == len(peak.of.kinds)}


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(f"{path.name}.broken")
    try:
        path.replace(aside)
    except OSError as refusal:
        log.warning("measurements_broken", path=str(path), error=str(error), not_kept=str(refusal))
    else:
        log.warning("measurements_broken", path=str(path), error=str(error), kept_as=str(aside))
