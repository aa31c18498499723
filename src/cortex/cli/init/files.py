"""The three files that `cortex init` writes, with the comments that make them readable. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cortex.cli.init.caches import FoundModel
from cortex.cli.up_files import DEMO_ENTRY, toml_string
from cortex.wire.node_api import DeviceInfo

GIBIBYTE = 2**30
# Weights are not all: the context and the work space want something too.
ROOM = 1.15


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found here: its name, its devices in order, which of their bytes are free, and its engines."""

    name: str
    devices: Sequence[DeviceInfo]
    free_bytes: Sequence[int]
    engines: Sequence[str]

    def engine_for(self, model: FoundModel) -> str | None:
        """Return the engine that reads *model*'s files; None if none is installed."""
        readers = ("llamacpp",) if model.is_gguf else ("vllm", "transformers")
        return next((engine for engine in readers if engine in self.engines), None)

    def why_not(self, model: FoundModel) -> str | None:
        """Return why *model* cannot be served here; None if it can."""
        if self.engine_for(model) is None:
            extra = "llamacpp" if model.is_gguf else "transformers"
            return f"no installed engine reads it: pip install 'cortex-fleet[{extra}]'"
        largest = max((device.memory_total_bytes for device in self.devices), default=0)
        if model.size_bytes * ROOM > largest:
            return f'its {gibibytes(model.size_bytes)} do not fit on one device here; devices = "auto" may spread it'
        return None


def gibibytes(count: int) -> str:
    """Return *count* bytes for reading."""
    return f"{count / GIBIBYTE:.1f} GiB"


def cortex_toml(machine: Machine, neuron_port: int) -> str:
    """Return the gateway's file, for this machine as the one node."""
    return f"""\
# The gateway: start it with `cortex serve`. Every key is optional but the nodes; `cortex doctor` checks the file.

[gateway]
# Where clients connect. 0.0.0.0 lets other machines in; make a key with `cortex key create NAME` first.
listen = "127.0.0.1:31313"
# Prometheus, on /metrics.
metrics_listen = "127.0.0.1:31314"

[eviction]
# Which model makes room when memory is short: "lru", the one unused for longest, or "priority", the lowest.
strategy = "lru"

# One table for each machine that runs `neuron`; `cortex node add NAME URL` adds one without an edit.
[[neurons]]
name = {toml_string(machine.name)}
endpoint = "http://127.0.0.1:{neuron_port}"
"""


def neuron_toml(machine: Machine, neuron_port: int) -> str:
    """Return this machine's file as a node."""
    found = "\n".join(
        f"#   {device.name} ({device.kind}): {gibibytes(device.memory_total_bytes)}, {gibibytes(free)} free"
        for device, free in zip(machine.devices, machine.free_bytes, strict=True)
    )
    return f"""\
# This machine as a node: start it with `neuron serve`. Every key is optional. Found here:
{found}
#   engines: {", ".join(machine.engines) or "none; pip install 'cortex-fleet[llamacpp]'"}

name = {toml_string(machine.name)}
# Unset, this machine alone is let in, and after `neuron join` the gateway that was joined, by TLS. 0.0.0.0 lets any
# other gateway in; give both a token then (token_file here, node_token_file there).
#host = "127.0.0.1"
port = {neuron_port}

[models]
# Where fetched model files are kept. Default: $CORTEX_CACHE, else cortex in the user's cache directory.
#cache = "/var/lib/neuron/models"
"""


def models_toml(machine: Machine, chosen: Sequence[FoundModel], others: Sequence[FoundModel]) -> str:
    """Return the catalogue: *chosen* models as entries, *others* as comments, a demo model if none was chosen."""
    head = """\
# What may be served. A model that is listed here and loaded nowhere is loaded by the first request for it.
# `cortex explain ID` says where it could go, and what stands in the way.
"""
    entries = [_entry(machine, model) for model in chosen] or [DEMO_ENTRY]
    unused = [_commented(_entry(machine, model), machine.why_not(model)) for model in others]
    return "\n".join([head, *entries, *unused])


def _entry(machine: Machine, model: FoundModel) -> str:
    return f"""\
# {model.owner}, {gibibytes(model.size_bytes)}{f", {model.quant}" if model.quant else ""}
[[models]]
id = {toml_string(model.id)}
source = {toml_string(str(model.path))}
engine = {toml_string(machine.engine_for(model) or ("llamacpp" if model.is_gguf else "transformers"))}
nodes = [{toml_string(machine.name)}]
"""


def _commented(entry: str, why: str | None) -> str:
    lines = [f"# Not served: {why}"] if why else []
    lines += [line if line.startswith("#") else f"#{line}" for line in entry.splitlines()]
    return "\n".join(lines) + "\n"


def names_of(directory: Path) -> dict[str, Path]:
    """Return where the three files go."""
    return {name: directory / name for name in ("cortex.toml", "models.toml", "neuron.toml")}
