"""Tools on their way to the hub, which knows only functions, and their names on the way back.

- A function goes as it is.
- A tool of a namespace is the function `<namespace>__<name>`; a call of it comes back with the two apart.
- A custom tool is a function of one text, `input`. Its grammar is told to the model, and not enforced.
- Any other tool (web search, code interpreter, …) is left out, and named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cortex.core.errors import BadRequest
from cortex.wire import json
from cortex.wire.openai import FunctionSpec
from cortex.wire.responses.parts import SEPARATOR
from cortex.wire.responses.reading import decode_at

# What the hub takes for a name.
MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class ToolName:
    """A tool as the client knows it."""

    name: str
    namespace: str | None = None
    custom: bool = False


@dataclass(slots=True)
class Tools:
    """What the hub may call (by its own names), what of it the client sees again, and what was left out."""

    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: dict[str, ToolName] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


class Grammar(msgspec.Struct):
    """What a custom tool's input has to look like."""

    type: str = "text"
    syntax: str = ""
    definition: str = ""


class CustomSpec(FunctionSpec):
    """A custom tool. Its name is bound as a function's is."""

    format: Grammar | None = None


class NamespaceSpec(msgspec.Struct):
    """A namespace: tools under one name."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]+\Z")]
    tools: list[msgspec.Raw]
    description: str | None = None


class NamedTool(msgspec.Struct):
    """A tool that `tool_choice` names, alone or in a list."""

    type: str
    name: str | None = None
    namespace: str | None = None


class ToolChoice(NamedTool):
    """`tool_choice` as an object."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = []


class ToolKind(msgspec.Struct):
    """What decides how a tool is read."""

    type: str


_kind = msgspec.json.Decoder(ToolKind)
_function = msgspec.json.Decoder(FunctionSpec)
_custom = msgspec.json.Decoder(CustomSpec)
_namespace = msgspec.json.Decoder(NamespaceSpec)


def hub_name(name: str, namespace: str | None) -> str:
    """Return what the hub calls the tool *name* of *namespace*."""
    return f"{namespace}__{name}" if namespace else name


def custom_arguments(text: str) -> str:
    """Return the input of a custom tool as the arguments of its function."""
    return json.encode({"input": text}).decode()


def custom_input(arguments: str) -> str:
    """Return the input of a custom tool from its function's arguments; as they are, if the model missed the form."""
    try:
        value = json.decode_any(arguments.encode())
    except BadRequest:
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments


def read_tools(sent: list[msgspec.Raw]) -> Tools:
    """Return *sent*, the request's tools, as the hub may have them. Raises BadRequest."""
    tools = Tools()
    for index, raw in enumerate(sent):
        at = f"tools[{index}]"
        kind = decode_at(raw, _kind, at).type
        if kind == "namespace":
            _add_namespace(tools, raw, at)
        elif kind in _READERS:
            _READERS[kind](tools, raw, at, None)
        else:
            tools.ignored.append(f"tools.{kind}")
            continue
        tools.shown.append(_shown(raw, kind))
    return tools


def choose(tools: Tools, choice: str | ToolChoice) -> tuple[list[dict[str, Any]], str | dict[str, Any]]:
    """Return the functions that the model may call under *choice*, and the hub's `tool_choice`. Raises BadRequest.

    A choice that forces a tool which was left out is left out with it.
    """
    every = list(tools.functions.values())
    if isinstance(choice, str):
        return every, choice
    if choice.type == "allowed_tools":
        allowed = {name for each in choice.tools for name in _matching(tools, each)}
        return [function for name, function in tools.functions.items() if name in allowed], choice.mode
    if choice.type not in _READERS:
        tools.ignored.append(f"tool_choice.{choice.type}")
        return every, "auto"
    found = _matching(tools, choice)
    if not found:
        raise BadRequest(f"tool_choice: {str(choice.name)[:60]!r} is not one of the tools", param="tool_choice")
    return every, {"type": "function", "function": {"name": found[0]}}


def _matching(tools: Tools, wanted: NamedTool) -> list[str]:
    """Return the hub's names of what *wanted* may mean: a tool, of one namespace or of any, or a whole namespace."""
    if wanted.type == "namespace":
        return [name for name, tool in tools.names.items() if tool.namespace == wanted.name]
    return [
        name
        for name, tool in tools.names.items()
        if wanted.name in (tool.name, name) and wanted.namespace in (None, tool.namespace)
    ]


def _add_namespace(tools: Tools, raw: msgspec.Raw, at: str) -> None:
    space = decode_at(raw, _namespace, at)
    for index, inner in enumerate(space.tools):
        place = f"{at}.tools[{index}]"
        kind = decode_at(inner, _kind, place).type
        if kind in _READERS:
            _READERS[kind](tools, inner, place, space)
        else:
            tools.ignored.append(f"tools.{kind}")


def _add_function(tools: Tools, raw: msgspec.Raw, at: str, space: NamespaceSpec | None) -> None:
    spec = decode_at(raw, _function, at)
    _add(tools, spec, at, space, parameters=spec.parameters, notes=())


def _add_custom(tools: Tools, raw: msgspec.Raw, at: str, space: NamespaceSpec | None) -> None:
    spec = decode_at(raw, _custom, at)
    grammar = spec.format if spec.format is not None and spec.format.type == "grammar" else None
    notes = () if grammar is None else (f"The input matches this {grammar.syntax} grammar:\n{grammar.definition}",)
    if grammar is not None:
        tools.ignored.append("tools.custom.format")
    _add(tools, spec, at, space, parameters=_ONE_TEXT, notes=notes, custom=True)


def _add(
    tools: Tools,
    spec: FunctionSpec,
    at: str,
    space: NamespaceSpec | None,
    *,
    parameters: dict[str, Any] | None,
    notes: tuple[str, ...],
    custom: bool = False,
) -> None:
    namespace = space.name if space else None
    name = hub_name(spec.name, namespace)
    if len(name) > MAX_NAME:
        raise BadRequest(f"{at}.name: longer than {MAX_NAME} characters with its namespace", param=f"{at}.name")
    if name in tools.functions:
        raise BadRequest(f"{at}.name: {name[:80]!r} is named twice", param=f"{at}.name")
    about = [each for each in (space.description if space else None, spec.description, *notes) if each]
    function = {
        "name": name,
        "description": SEPARATOR.join(about) or None,
        "parameters": parameters,
        "strict": None if custom else spec.strict,
    }
    kept = {key: value for key, value in function.items() if value is not None}
    tools.functions[name] = {"type": "function", "function": kept}
    tools.names[name] = ToolName(spec.name, namespace, custom)


def _shown(raw: msgspec.Raw, kind: str) -> dict[str, Any]:
    """Return a tool as the answer repeats it: a function with every field that a client may rely on."""
    sent: dict[str, Any] = json.decode_any(bytes(raw))
    return {"parameters": None, "strict": None, **sent} if kind == "function" else sent


_ONE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
_READERS = {"function": _add_function, "custom": _add_custom}
