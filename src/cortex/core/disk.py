"""How much room there is where files are going to be."""

from __future__ import annotations

import shutil
from pathlib import Path


def existing(path: Path) -> Path:
    """Return *path* or, of the directories above it, the first that is there."""
    return next((part for part in (path, *path.parents) if part.exists()), path)


def free_bytes(path: Path) -> int | None:
    """Return the bytes that this user can still write at *path*, which need not be there yet; None if unknown."""
    try:
        return shutil.disk_usage(existing(path)).free
    except OSError:
        return None
