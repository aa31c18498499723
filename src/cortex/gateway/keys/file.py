"""`keys.toml`: which keys there are. Edits are serialised by a lock and replace the file whole.

An edit adds or takes out one block of text and leaves the rest as its owner wrote it, comments included. What it would
write is read back first: a file that this module could not load is never put in place.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from cortex.core.config import convert
from cortex.core.errors import ConfigError
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.secret import redacted

HEADER = (
    "# Keys of the gateway, made by `cortex key create`. Limits may be edited here; the keys themselves are not here.\n"
)
_BLOCK = re.compile(r"^(?:[ \t]*#[^\n]*\n)*[ \t]*\[\[[ \t]*keys[ \t]*\]\]", re.MULTILINE)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[KeyEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Keys:
    """What the file says: the entries by public id, and what its owner should know about the file."""

    by_id: Mapping[str, KeyEntry]
    warnings: tuple[str, ...] = ()

    def find(self, name: str) -> list[KeyEntry]:
        """Return the entries that *name*, an id or a name, means: at most one of each."""
        return [entry for entry in self.by_id.values() if name in (entry.id, entry.name)]


def load_keys(path: Path) -> Keys:
    """Return the keys in the file at *path*.

    Raises ConfigError naming the line or the key that is wrong, or if others than its owner may write the file.
    """
    try:
        with path.open("rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read().decode()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `cortex key create NAME` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path}: others than its owner may write it, and so make keys; chmod 600 {path}")
    warnings = (f"{path}: anybody on this machine may read it; chmod 600 {path}",) if mode & stat.S_IROTH else ()
    return Keys(_parse(text, path), warnings)


def add_key(path: Path, entry: KeyEntry) -> None:
    """Add *entry* to the file at *path*, which is made if there is none. Raises ConfigError if its name is taken."""

    def add(text: str) -> str:
        if any(known.name == entry.name for known in _parse(text, path).values()):
            raise ConfigError(f"{path}: there is a key named {entry.name!r} already; revoke it first, or name this one")
        return (text.rstrip("\n") + "\n" if text.strip() else HEADER) + "\n" + _block(entry)

    _edit(path, add)


def remove_key(path: Path, name: str) -> KeyEntry:
    """Take the key that *name*, an id or a name, means out of the file at *path*, and return it. Raises ConfigError."""
    removed: list[KeyEntry] = []

    def remove(text: str) -> str:
        entries = list(_parse(text, path).values())
        removed[:] = Keys({entry.id: entry for entry in entries}).find(name)
        if len(removed) != 1:
            why = "there is no such key" if not removed else "one key has it for its name, another for its id"
            raise ConfigError(f"{path}: {name!r}: {why}")
        starts = [match.start() for match in _BLOCK.finditer(text)]
        if len(starts) != len(entries):
            raise ConfigError(f"{path}: not every key stands in a [[keys]] block of its own; take {name!r} out by hand")
        at = entries.index(removed[0])
        return text[: starts[at]] + (text[starts[at + 1] :] if at + 1 < len(starts) else "")

    _edit(path, remove)
    return removed[0]


def _parse(text: str, path: Path) -> dict[str, KeyEntry]:
    """Return the entries of *text* by id, in the order of the file. Raises ConfigError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    try:
        entries = convert(table, _File, where=str(path)).keys
    except ConfigError as error:
        raise ConfigError(redacted(str(error))) from None
    by_id: dict[str, KeyEntry] = {}
    names: set[str] = set()
    for index, entry in enumerate(entries):
        where = f"{path}: keys[{index}] ({entry.name})"
        try:
            _ = entry.budget_window_seconds
        except ValueError as error:
            raise ConfigError(redacted(f"{where}: budget_window = {error}")) from None
        if entry.name in names or entry.id in by_id:
            raise ConfigError(f"{where}: another key has this {'name' if entry.name in names else 'id'}")
        names.add(entry.name)
        by_id[entry.id] = entry
    return by_id


def _block(entry: KeyEntry) -> str:
    fields = {name: value for name, value in msgspec.structs.asdict(entry).items() if value not in (None, ())}
    if entry.budget_tokens is None:
        del fields["budget_window"]
    return "[[keys]]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in fields.items())


def _toml(value: Any) -> str:
    """Return *value* in TOML; JSON writes numbers, and texts and lists of the characters allowed here, the same."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return json.dumps(value)


def _edit(path: Path, change: Callable[[str], str]) -> None:
    """Replace the text of the file at *path* by what *change* makes of it, alone among all editors."""
    path = path.resolve()
    try:
        with _locked(path):
            try:
                text = path.read_bytes().decode()
            except FileNotFoundError:
                text = ""
            changed = change(text)
            _parse(changed, path)
            _replace(path, changed)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock beside *path*; it is a file of its own, for the other one is replaced."""
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    """Put *text* in the place of *path* at once and for good; it keeps its owner and mode.

    A new one is its owner's alone, or also its group's to read where the directory passes its group on: that is how
    root makes a key which the gateway's own user can read.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if path.exists():
                _take_over(path.stat(), file.fileno())
            elif path.parent.stat().st_mode & stat.S_ISGID:
                os.fchmod(file.fileno(), 0o640)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _take_over(old: os.stat_result, descriptor: int) -> None:
    """Give the new file the owner and the mode of the *old* one: root may edit the file of the gateway's own user."""
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
