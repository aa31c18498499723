"""Which engines are installed here and what each can compute on, asked once of a process of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points

import anyio

from cortex.core.logging import get_logger
from cortex.neuron.config import NeuronConfig
from cortex.neuron.engine_process import EngineProcess
from cortex.wire.node_api import DeviceInfo

log = get_logger(__name__)

# An engine that takes longer to import is not waited for: it may be placed on any device that suits its name.
PROBE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Probed:
    """What an engine says of itself: its version, and the *kinds* of devices it computes on; none is unknown."""

    version: str = ""
    kinds: tuple[str, ...] = ()


def installed_engines(config: NeuronConfig) -> list[str]:
    """Return the engines this node offers: those of `[[harnesses]]`, else every one whose packages are there."""
    known = sorted(entry.name for entry in entry_points(group="cortex.engines") if _is_complete(entry))
    if not config.harnesses:
        return known
    for harness in config.harnesses:
        if harness.name not in known:
            log.warning("engine_unknown", name=harness.name, known=known)
    return [name for name in known if any(harness.name == name for harness in config.harnesses)]


def _is_complete(entry: EntryPoint) -> bool:
    """Whether an engine's packages are there; nothing of them is imported here."""
    requires = (entry.dist.requires or []) if entry.dist is not None else []
    builds = packages_by_build(requires, entry.name)
    return not builds or any(all(map(_is_installed, packages)) for packages in builds.values())


def packages_by_build(requires: Sequence[str], engine: str) -> dict[str, list[str]]:
    """Return the packages of each build of *engine*: of the extra called like it, and of `ENGINE-…` for others."""
    builds: dict[str, list[str]] = {}
    for line in requires:
        extra = re.search(rf"extra == ['\"]({re.escape(engine)}(?:-[a-z0-9-]+)?)['\"]", line)
        package = re.match(r"[A-Za-z0-9._-]+", line)
        if extra is not None and package is not None:
            builds.setdefault(extra[1], []).append(package[0])
    return builds


def _is_installed(package: str) -> bool:
    try:
        return bool(distribution(package))
    except PackageNotFoundError:
        return False


async def probe_engines(names: Sequence[str], heartbeat_seconds: float) -> dict[str, Probed]:
    """Return what each of *names* that starts says of itself; one that is too slow to say anything is kept."""
    found: dict[str, Probed] = {}
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(_probe, name, heartbeat_seconds, found)
    return {name: found[name] for name in names if name in found}


async def _probe(name: str, heartbeat_seconds: float, found: dict[str, Probed]) -> None:
    process = EngineProcess(name, f"probe of {name}", env={}, heartbeat_seconds=heartbeat_seconds)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(process.run)
        with anyio.move_on_after(PROBE_SECONDS):
            await process.ready.wait()
        if process.died.is_set():
            log.error("engine_broken", engine=name, error=process.reason)
        else:
            found[name] = Probed(process.engine_version, process.device_kinds)
            log.debug("engine_found", engine=name, version=process.engine_version, devices=process.device_kinds)
        tasks.cancel_scope.cancel()


def missing_backends(engine_devices: Mapping[str, Sequence[str]], devices: Sequence[DeviceInfo]) -> list[str]:
    """Return a warning for each engine that leaves GPUs of this node idle because its build cannot drive them."""
    gpus = {device.kind for device in devices} & {"cuda", "rocm"}
    return [
        f"engine {engine!r} cannot compute on {', '.join(sorted(idle))} here, so its models go on the CPU: "
        "install the build for your GPU"
        for engine, kinds in engine_devices.items()
        if kinds and (idle := gpus - set(kinds))
    ]
