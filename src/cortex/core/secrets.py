"""Secrets that stand in files of their own: a configuration that is shown or logged has none in it."""

from __future__ import annotations

from pathlib import Path

from cortex.core.errors import ConfigError


def read_secret(path: Path, key: str) -> str:
    """Return the text of the file at *path* without the space around it. Raises ConfigError naming *key*."""
    try:
        return path.read_bytes().decode().strip()
    except FileNotFoundError:
        raise ConfigError(f"{key}: {path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path}: not text") from None
