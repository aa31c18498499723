"""What can go wrong in a simulation besides a wrong file."""

from __future__ import annotations


class SimulationError(Exception):
    """The decisions broke a promise of the system: what is told is a defect of it, not of the fleet or the trace."""
