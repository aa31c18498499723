"""Whether a directory can be written to, and whether there is room in it."""

from __future__ import annotations

import os
from pathlib import Path

from cortex.cli.doctor.findings import Finding, warning, well, wrong
from cortex.core.disk import existing, free_bytes

GIBIBYTE = 2**30


def check_directory(subject: str, directory: Path, least_free_bytes: int, key: str) -> Finding:
    """Return whether *directory*, or what it would be made in, takes files; *key* is the setting that names it."""
    there, free = existing(directory), free_bytes(directory)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK) or free is None:
        return wrong(subject, f"{directory} cannot be written to", f"give it to this user, or name another with {key}")
    said = f"{directory}, {free / GIBIBYTE:.1f} GiB free"
    if free < least_free_bytes:
        return warning(subject, said, f"make room, or name a directory on another disk with {key}")
    return well(subject, said)
