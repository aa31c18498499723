"""Cortex: one endpoint over every model on every GPU a person owns."""

from importlib.metadata import version

__version__ = version("cortex-fleet")
