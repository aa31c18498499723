"""What is only there if it was installed with an extra: refused by name, with what to install."""

from __future__ import annotations

from importlib.util import find_spec

from cortex.core.errors import ConfigError


def check_extra(extra: str, modules: tuple[str, ...], what: str) -> None:
    """Raise ConfigError unless all *modules*, which *what* needs and *extra* brings, are there."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        reason = f"{what} needs {' and '.join(missing)}, which is not installed"
        raise ConfigError(f"{reason}; install it with: pip install 'cortex-fleet[{extra}]'")
