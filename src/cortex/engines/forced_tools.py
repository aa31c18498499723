"""A forced tool call where the template cannot force one: the arguments' schema constrains a plain completion.

`tool_choice` as a named function, or `required`, becomes a JSON schema for what the model may write; the text that
comes back is the call. A call of a known function streams its arguments; with several to choose from the call is
known when it is whole.
"""

from __future__ import annotations

import uuid
from typing import Any

from cortex.core.errors import BadRequest
from cortex.engines.json_schemas import subschemas
from cortex.wire.json import decode_any, encode

_NOT_SAMPLING = frozenset(
    {"messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs", "top_logprobs"}
    | {"reasoning_effort", "chat_template_kwargs"}
)


class ForcedCall:
    """One forced call: the schema that the text must follow, and the text's way back into `tool_calls`."""

    def __init__(self, functions: dict[str, dict[str, Any]], sampling: dict[str, Any]) -> None:
        self._name = next(iter(functions)) if len(functions) == 1 else None
        self.schema = next(iter(functions.values())) if self._name else _any_of(functions)
        self.sampling = sampling
        self.finish_reason: str | None = None
        self._text: dict[int, str] = {}

    def translate(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the chat chunks that one chunk of the completion stands for."""
        chunks: list[dict[str, Any]] = []
        for choice in chunk.get("choices", ()):
            stop = choice.get("stop_reason")
            for delta, reason in self._deltas(choice):
                chunks.append(_chat_chunk(chunk, choice["index"], delta, reason, stop if reason is not None else None))
        return chunks

    def _deltas(self, choice: dict[str, Any]) -> list[tuple[dict[str, Any], str | None]]:
        index, text, reason = choice["index"], choice.get("text") or "", choice.get("finish_reason")
        deltas: list[tuple[dict[str, Any], str | None]] = []
        if index not in self._text:
            self._text[index] = ""
            deltas.append(({"role": "assistant", "content": None}, None))
            if self._name:
                deltas.append((_call({"name": self._name, "arguments": ""}, new=True), None))
        self._text[index] += text
        if self._name and text:
            deltas.append((_call({"arguments": text}), None))
        if reason is not None:
            whole = _whole(self._text[index]) if reason == "stop" else None
            if self._name is None and whole is not None:
                arguments = encode(whole["arguments"]).decode()
                deltas.append((_call({"name": whole["name"], "arguments": arguments}, new=True), None))
            self.finish_reason = reason if whole is None else "tool_calls"
            deltas.append(({}, self.finish_reason))
        return deltas


def forced_call(fields: dict[str, Any]) -> ForcedCall | None:
    """Return the call that *fields* force, or None if the model may choose."""
    choice = fields.get("tool_choice")
    if choice in (None, "auto", "none"):
        return None
    if fields.get("logprobs"):
        raise BadRequest("logprobs: not offered together with a forced tool_choice", param="logprobs")
    functions: dict[str, dict[str, Any]] = {
        tool["function"]["name"]: closed(tool["function"].get("parameters") or {"type": "object"})
        for tool in fields["tools"]
    }
    if isinstance(choice, dict):
        functions = {choice["function"]["name"]: functions[choice["function"]["name"]]}
    sampling = {name: value for name, value in fields.items() if name not in _NOT_SAMPLING}
    return ForcedCall(functions, sampling)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return *schema* with every object that lists its properties closed to others, unless it says itself.

    What the closed schema allows, the client's allows too; and a small model that may invent properties never ends.
    A schema that composes objects from several parts stays as it is: closing each part would leave nothing.
    """
    copy: dict[str, Any] = decode_any(encode(schema))
    nodes = [node for node, _ in subschemas(copy)]
    if any("allOf" in node or ("properties" in node and node.keys() & {"anyOf", "oneOf"}) for node in nodes):
        return copy
    for node in nodes:
        if isinstance(node.get("properties"), dict) and node.get("type") == "object":
            node.setdefault("additionalProperties", False)
    return copy


def _any_of(functions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "name": {"const": name},
                    "arguments": _moved(parameters, f"#/anyOf/{at}/properties/arguments"),
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for at, (name, parameters) in enumerate(functions.items())
        ]
    }


def _moved(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """Return *schema* as it reads when it stands at *place* of another: its references start at that one's root."""
    moved: dict[str, Any] = decode_any(encode(schema))
    for node, _ in subschemas(moved):
        reference = node.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            node["$ref"] = place + reference[1:]
    return moved


def _whole(text: str) -> Any:
    """Return the JSON value that *text* is, or None if a stop string of the client's cut it short."""
    try:
        return decode_any(text.encode())
    except BadRequest:
        return None


def _call(function: dict[str, Any], *, new: bool = False) -> dict[str, Any]:
    head = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"} if new else {}
    return {"tool_calls": [{"index": 0, **head, "function": function}]}


def _chat_chunk(
    chunk: dict[str, Any], index: int, delta: dict[str, Any], reason: str | None, stop: str | None
) -> dict[str, Any]:
    head: dict[str, Any] = {
        name: chunk[name] for name in ("id", "created", "model", "system_fingerprint") if name in chunk
    }
    choice = {"index": index, "delta": delta, "finish_reason": reason, **({"stop_reason": stop} if stop else {})}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}
