"""The entry points of the two programs."""

from __future__ import annotations

from cortex.cli.gateway_commands import cortex
from cortex.cli.neuron_commands import neuron

__all__ = ["cortex", "neuron"]
