"""A stack for the commands of the pages: two nodes that simulate, and a gateway whose models have the pages' names."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from harness import Fleet

NODE = """
[[simulated_devices]]
name = "Simulated 24 GB"
memory_mb = 24576
"""
MODELS = "".join(
    f'[[models]]\nid = "{name}"\nengine = "simulated"\noptions = {{ load_seconds = 0.1, tokens_per_second = 2000 }}\n'
    for name in ("coder", "demo", "qwen3")
)


@dataclass(frozen=True, slots=True)
class Stack:
    """The stack as pages speak of it: their ports are this one's."""

    fleet: Fleet
    ports: dict[str, int]

    def told(self, text: str) -> str:
        """Return *text* with the ports of the pages as they are here."""
        for port, here in self.ports.items():
            text = text.replace(port, str(here))
        return text

    def beside(self, directory: Path) -> Path:
        """Make *directory* look like the gateway's own: its configuration, and its state under the name of `state`."""
        directory.mkdir()
        shutil.copy(self.fleet.directory / "cortex.toml", directory)
        shutil.copy(self.fleet.directory / "models.toml", directory)
        (directory / "state").symlink_to(self.fleet.directory / "cortex-state")
        return directory

    def environment(self, home: Path) -> dict[str, str]:
        """Return what a reader's shell has: the programs, and where the gateway is."""
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("CORTEX_", "NEURON_"))}
        gateway = self.fleet.daemons["cortex"].url
        return plain | {"PATH": programs, "HOME": str(home), "CORTEX_ENDPOINT": gateway, "no_proxy": "127.0.0.1"}
