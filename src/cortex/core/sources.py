"""Where a model's files come from, as written in a spec: `hf:`, `pypi:` or a local path."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cortex.core.errors import ConfigError

_HF = re.compile(
    r"(?P<repo>[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(:(?P<quant>[A-Za-z0-9][A-Za-z0-9._-]*))?"
    r"(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._-]*))?"
)
_PYPI = re.compile(
    r"(?P<package>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"==(?P<version>[A-Za-z0-9][A-Za-z0-9.+!_-]*)"
    r"(#sha256=(?P<sha256>[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository on a Hugging Face hub: `hf:org/repo[:quant][@revision]`."""

    repo: str
    quant: str | None
    revision: str | None


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A model shipped as a wheel: `pypi:package==version[#sha256=…]`, the hash being the wheel's."""

    package: str
    version: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A `.gguf` file or a directory on the node: an absolute path, or one that starts with `./` or `~/`."""

    path: str


Source = HubSource | WheelSource | LocalSource


def parse_source(text: str) -> Source:
    """Return the source that *text* names; a bare `org/repo` is a hub repository. Raises ConfigError."""
    if text.startswith(("/", "./", "../", "~/")) and "\0" not in text:
        return LocalSource(text)
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "pypi":
        match = _PYPI.fullmatch(rest)
        if match is None:
            raise ConfigError(f"source {text!r}: expected pypi:package==version, optionally #sha256=<64 hex digits>")
        return WheelSource(match["package"], match["version"], match["sha256"])
    match = _HF.fullmatch(rest if colon and scheme == "hf" else text)
    if match is None or ".." in text:
        raise ConfigError(
            f"source {text!r}: expected hf:org/repo[:quant][@revision], pypi:package==version, "
            "or a path that starts with /, ./ or ~/"
        )
    return HubSource(match["repo"], match["quant"], match["revision"])
