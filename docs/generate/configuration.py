"""The page of configuration: each key, its type and default from the code, its meaning from the examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from cortex.core.model_spec import ModelSpec
from cortex.gateway.config import GatewayConfig
from cortex.gateway.keys.entry import KeyEntry
from cortex.neuron.config import NeuronConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
HEAD = """# Configuration

<!-- Written by docs/generate: `make docs`. -->

Three files, in TOML: `cortex.toml` is the gateway's, `models.toml` beside it says what may be served, `neuron.toml` is
a node's. `cortex init` writes them for a machine; [Keys](keys.md) are in a fourth, `keys.toml`, which `cortex key`
writes. A key that is not known, or a value of another type, stops the start and says where. `cortex doctor` checks all.

Every key of `cortex.toml` may be overridden from the environment, with two underscores between tables:
`CORTEX_GATEWAY__LISTEN=0.0.0.0:31313`; every key of `neuron.toml` so too: `NEURON_PORT=13132`. Durations are in
seconds, or text such as `"90s"`, `"15m"`, `"2h"`; sizes are text such as `"24 GB"`.

"""
FILES: tuple[tuple[str, type[msgspec.Struct], str], ...] = (
    ("cortex.toml", GatewayConfig, ""),
    ("models.toml", ModelSpec, "models"),
    ("neuron.toml", NeuronConfig, ""),
    ("keys.toml", KeyEntry, "keys"),
)
_PLAIN = {
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.StrType: "text",
    inspect.BoolType: "true or false",
    inspect.NoneType: "",
    inspect.AnyType: "any value",
    inspect.DateTimeType: "date and time",
}
_TABLE = re.compile(r"#?\[+(?P<name>\w+)\]+")
_KEY = re.compile(r"#? ?(?P<key>[a-z_0-9]+) = ")


def page() -> str:
    """Return the page as it is to be."""
    return HEAD + "\n".join(_file(*file) for file in FILES)


def meanings(text: str) -> dict[tuple[str, str], str]:
    """Return what an example file says above each key, by table and key."""
    found: dict[tuple[str, str], str] = {}
    table, above = "", []
    for line in text.splitlines():
        if header := _TABLE.match(line):
            table, above = header["name"], []
        elif key := _KEY.match(line):
            found.setdefault((table, key["key"]), _sentence(above))
            above = []
        elif line.startswith("# "):
            above.append(line[2:])
        else:
            above = []
    return found


def _sentence(lines: list[str]) -> str:
    """Return *lines* of a comment as one; those of a list, which are indented, with semicolons between."""
    return " ".join(f"{line.strip()};" if line.startswith("  ") else line for line in lines).removesuffix(";")


def tables(struct: type[msgspec.Struct], name: str) -> Iterator[tuple[str, inspect.StructType, bool]]:
    """Yield *struct* and each below it: the name of its table, its type, and whether there may be several."""
    known = inspect.type_info(struct)
    assert isinstance(known, inspect.StructType)
    yield name, known, bool(name)
    for field in known.fields:
        below, several = _below(field.type)
        if below is not None and below.cls is not ModelSpec:
            yield field.encode_name, below, several


def example(name: str) -> str:
    """Return the example of the file that is called *name*."""
    return (EXAMPLES / name.replace(".", ".example.")).read_text()


def _file(name: str, struct: type[msgspec.Struct], table: str) -> str:
    said = meanings(example(name))
    return f"## {name}\n\n" + "\n".join(_table(*each, said) for each in tables(struct, table))


def _table(name: str, struct: inspect.StructType, several: bool, said: dict[tuple[str, str], str]) -> str:
    shown = f"[[{name}]]" if several else f"[{name}]"
    heading = f"### `{shown}`\n\n" if name else ""
    words = cleandoc(struct.cls.__doc__ or "")
    rows = [_row(field, said.get((name, field.encode_name), "")) for field in struct.fields if not is_table(field)]
    if not rows:
        return ""
    return "\n".join([f"{heading}{words}\n", "| key | type | default | |", "|---|---|---|---|", *rows, ""])


def is_table(field: inspect.Field) -> bool:
    """Return whether *field* is a table of its own, which the page shows as one."""
    below, _ = _below(field.type)
    return below is not None and below.cls is not ModelSpec


def _below(kind: inspect.Type) -> tuple[inspect.StructType | None, bool]:
    if isinstance(kind, inspect.StructType):
        return kind, False
    if isinstance(kind, inspect.ListType) and isinstance(kind.item_type, inspect.StructType):
        return kind.item_type, True
    return None, False


def _row(field: inspect.Field, meaning: str) -> str:
    return f"| `{field.encode_name}` | {_type(field.type)} | {_default(field)} | {_cell(meaning)} |"


def _cell(text: str) -> str:
    """Return *text* of an example as Markdown in a cell: what looks like a tag or a link there is neither."""
    text = re.sub(r"(?<!`)(\[\w+\]|<\w+>|\S*\[[:@#]\S+)", r"`\1`", text.replace("|", "/"))
    return " ".join(text.split())


def _type(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.UnionType):
        return " or ".join(filter(None, map(_type, kind.types)))
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(f'`"{value}"`' for value in kind.values)
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return f"list of {_type(kind.item_type)}"
    if isinstance(kind, inspect.DictType):
        return "table" if isinstance(kind.value_type, inspect.AnyType) else f"table of {_type(kind.value_type)}"
    if isinstance(kind, inspect.StructType):
        return "models, as in `models.toml`"
    return _PLAIN[type(kind)] + _bounds(kind)


def _bounds(kind: inspect.Type) -> str:
    least, above, most = (getattr(kind, name, None) for name in ("ge", "gt", "le"))
    said = [f"at least {least}" if least is not None else "", f"above {above}" if above is not None else ""]
    said.append(f"at most {most}" if most is not None else "")
    return "".join(f", {each}" for each in said if each)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value: Any = field.default if field.default is not inspect.NODEFAULT else field.default_factory()
    if value is None:
        return "none"
    return f"`{msgspec.json.encode(value).decode()}`"
