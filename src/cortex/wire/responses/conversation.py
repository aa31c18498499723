"""The items of the input, in order, as the messages of a chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from cortex.wire.responses.items import (
    CallOutputItem,
    CustomCallItem,
    FunctionCallItem,
    Kind,
    MessageItem,
    ReasoningItem,
    unseal,
)
from cortex.wire.responses.parts import hub_content, text_of
from cortex.wire.responses.reading import decode_at
from cortex.wire.responses.tools import custom_arguments, hub_name
from cortex.wire.responses.turns import Messages, Turns

_FOREIGN = "input.reasoning.encrypted_content"

_kind = msgspec.json.Decoder(Kind)
_message = msgspec.json.Decoder(MessageItem)
_reasoning = msgspec.json.Decoder(ReasoningItem)
_function_call = msgspec.json.Decoder(FunctionCallItem)
_custom_call = msgspec.json.Decoder(CustomCallItem)
_call_output = msgspec.json.Decoder(CallOutputItem)


def read_conversation(
    instructions: str | None, items: Sequence[msgspec.Raw], first: int = 0
) -> tuple[Messages, list[str]]:
    """Return the chat that *items* are, and what of them was left out. Raises BadRequest naming the item.

    *first* is the number that the first item has in the client's `input`; stored ones before it count below zero.
    """
    turns, dropped = Turns(), list[str]()
    if instructions:
        turns.system(instructions)
    for number, raw in enumerate(items, first):
        at = f"input[{number}]"
        kind = decode_at(raw, _kind, at).name
        reader = _READERS.get(kind)
        left_out = f"input.{kind}" if reader is None else reader(turns, raw, at)
        if left_out:
            dropped.append(left_out)
    return turns.messages(), dropped


def _read_message(turns: Turns, raw: msgspec.Raw, at: str) -> None:
    message, at = decode_at(raw, _message, at), f"{at}.content"
    if message.role == "user":
        turns.user(hub_content(message.content, at))
    elif message.role == "assistant":
        turns.said(text_of(message.content, at, between=""))
    else:
        turns.system(text_of(message.content, at))


def _read_reasoning(turns: Turns, raw: msgspec.Raw, at: str) -> str | None:
    """Take a reasoning item: sealed by us, or open. A summary beside a foreign seal is not what the model thought."""
    item = decode_at(raw, _reasoning, at)
    sealed = None if item.encrypted_content is None else unseal(item.encrypted_content)
    foreign = item.encrypted_content is not None and sealed is None
    text = sealed or text_of(item.content or [], f"{at}.content")
    if not text and not foreign:
        text = text_of(item.summary or [], f"{at}.summary")
    if text:
        turns.thought(text)
    return _FOREIGN if foreign else None


def _read_function_call(turns: Turns, raw: msgspec.Raw, at: str) -> None:
    call = decode_at(raw, _function_call, at)
    turns.called(call.call_id, hub_name(call.name, call.namespace), call.arguments)


def _read_custom_call(turns: Turns, raw: msgspec.Raw, at: str) -> None:
    call = decode_at(raw, _custom_call, at)
    turns.called(call.call_id, hub_name(call.name, call.namespace), custom_arguments(call.input))


def _read_call_output(turns: Turns, raw: msgspec.Raw, at: str) -> None:
    output = decode_at(raw, _call_output, at)
    turns.gave(output.call_id, hub_content(output.output, f"{at}.output"), at)


_READERS: dict[str, Callable[[Turns, msgspec.Raw, str], str | None]] = {
    "message": _read_message,
    "reasoning": _read_reasoning,
    "function_call": _read_function_call,
    "custom_tool_call": _read_custom_call,
    "function_call_output": _read_call_output,
    "custom_tool_call_output": _read_call_output,
}
