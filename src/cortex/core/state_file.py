"""Files in which a program keeps what it was told: written whole or not at all, for its own user alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from cortex.core.errors import ConfigError, ServiceError

State = TypeVar("State", bound=msgspec.Struct)


def kept(file: Path, kind: type[State], what: str) -> State | None:
    """Return what *file* says; None if there is no such file. Raises ConfigError: deleting it forgets *what*."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise ConfigError(f"{file}: {error}; repair it, or delete it to forget {what}") from None


def keep(file: Path, state: msgspec.Struct) -> None:
    """Put *state* in the place of *file*. Raises ServiceError when that cannot be done."""
    keep_bytes(file, msgspec.json.format(msgspec.json.encode(state)) + b"\n")


def keep_bytes(file: Path, content: bytes) -> None:
    """Put *content* in the place of *file*. Raises ServiceError when that cannot be done."""
    try:
        _write(file, content)
    except OSError as error:
        reason = f"{file} cannot be written: {error.strerror or error}"
        raise ServiceError(reason, code="state_not_kept") from None


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_suffix(".new")
    with open(draft, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
    draft.replace(file)
