"""How much memory the control groups of this process leave it: in a container that is less than the machine has.

The files are described in the kernel's documentation: cgroup-v2.rst for version 2, cgroup-v1/memory.rst for version 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class Room:
    """The lowest limit over all levels of the hierarchy, and what is free below the tightest of them."""

    limit_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class _Files:
    limit: str
    usage: str
    reclaimable: str


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def memory_room(root: Path = Path("/")) -> Room | None:
    """Return the room of this process; None without a limit. *root* is where /proc and /sys are."""
    rooms = [room for directory, files in _levels(root) if (room := _room(directory, files))]
    if not rooms:
        return None
    return Room(min(r.limit_bytes for r in rooms), min(r.free_bytes for r in rooms))


def _levels(root: Path) -> Iterator[tuple[Path, _Files]]:
    """Yield the directory of each memory group this process is in, innermost first."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, files = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            base, files = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        # Inside a container the path may be the host's, and absent here: the mount's own top is then our group.
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for depth in range(len(parts), -1, -1):
            yield base.joinpath(*parts[:depth]), files


def _room(directory: Path, files: _Files) -> Room | None:
    """Return the room of one group; None if it is absent or has no limit."""
    try:
        limit = int((directory / files.limit).read_text())
        usage = int((directory / files.usage).read_text())
    except (OSError, ValueError):  # ValueError: version 2 writes "max"
        return None
    return Room(limit, max(0, limit - usage + min(usage, _reclaimable(directory, files))))


def _reclaimable(directory: Path, files: _Files) -> int:
    """Return the page cache that the kernel drops before it refuses memory, as kubelet's working set counts it."""
    try:
        lines = (directory / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [files.reclaimable]), 0)
