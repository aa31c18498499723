"""Read a TOML file into a typed value: every key known, every type right, or the start stops with the reason."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cortex.core.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`(?: - at `\$(?P<at>[^`]*)`)?")
_WRONG = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<at>[^`]*)`)?$", re.DOTALL)


def load_toml(path: Path, shape: type[T], *, env: Mapping[str, str] | None = None, env_prefix: str = "") -> T:
    """Return the file at *path* as *shape*, after overrides such as `CORTEX_GATEWAY__LISTEN=…` from *env*.

    Raises ConfigError with the file, the key and what was expected.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except PermissionError:
        raise ConfigError(f"{path}: this user may not read it; a service's file is for root and the service") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return convert(table, shape, where=str(path), env=env, env_prefix=env_prefix)


def convert(
    table: dict[str, Any], shape: type[T], *, where: str, env: Mapping[str, str] | None = None, env_prefix: str = ""
) -> T:
    """Return *table* with the overrides of *env* as *shape*; ConfigError names *where* or the variable."""
    overridden = _override(table, env or {}, env_prefix, known=set(shape.__struct_fields__))
    try:
        return msgspec.convert(table, shape)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), shape, where, overridden)) from None


def _override(table: dict[str, Any], env: Mapping[str, str], prefix: str, known: set[str]) -> dict[str, str]:
    """Set the values that *env* gives into *table*; return which dotted keys came from which variable."""
    origin: dict[str, str] = {}
    for name, value in sorted(env.items()):
        if not prefix or not name.startswith(prefix):
            continue
        keys = name.removeprefix(prefix).lower().split("__")
        if len(keys) == 1 and keys[0] not in known:
            continue  # CORTEX_LOG and its like are not configuration keys
        at = table
        for key in keys[:-1]:
            child = at.setdefault(key, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{name}: {key!r} is not a table")
            at = child
        at[keys[-1]] = _literal(value)
        origin[".".join(keys)] = name
    return origin


def _literal(text: str) -> Any:
    """Return *text* as the TOML literal it looks like, else as a plain string."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(reason: str, shape: type[msgspec.Struct], where: str, overridden: dict[str, str]) -> str:
    unknown = _UNKNOWN.match(reason)
    if unknown is not None:
        at = (unknown["at"] or "").lstrip(".")
        key = f"{at}.{unknown['key']}" if at else unknown["key"]
        names = _known_keys(shape, at)
        near = difflib.get_close_matches(unknown["key"], names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(sorted(names))}"
        return f"{_origin(key, where, overridden)}: unknown key {key!r}; {hint}"
    wrong = _WRONG.match(reason)
    at = ((wrong["at"] if wrong else None) or "").lstrip(".")
    what = wrong["what"] if wrong else reason
    return f"{_origin(at, where, overridden)}: {at}: {what}" if at else f"{where}: {what}"


def _origin(key: str, where: str, overridden: dict[str, str]) -> str:
    """Return the variable that set *key*, something in it or what it is in, else *where*."""
    for dotted, variable in overridden.items():
        if f"{dotted}.".startswith(f"{key}.") or key.startswith((f"{dotted}.", f"{dotted}[")):
            return variable
    return where


def _inside(node: Any) -> Any:
    """Return the type of what is in a list, or the table in an optional one; None if *node* is neither."""
    if hasattr(node, "item_type"):
        return node.item_type
    return next((option for option in getattr(node, "types", ()) if hasattr(option, "fields")), None)


def _known_keys(shape: type[msgspec.Struct], at: str) -> list[str]:
    """Return the keys that are known at the dotted path *at* below *shape*."""
    node: Any = msgspec.inspect.type_info(shape)
    for part in filter(None, re.split(r"\.|\[[^\]]*\]", at)):
        field = next((f for f in getattr(node, "fields", ()) if f.encode_name == part), None)
        if field is None:
            return []
        node = field.type
        while not hasattr(node, "fields") and (inner := _inside(node)) is not None:
            node = inner
    return [f.encode_name for f in getattr(node, "fields", ())]
