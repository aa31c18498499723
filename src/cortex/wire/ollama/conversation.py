"""Ollama's messages as the hub's: calls get the ids that tie results to them, images become parts.

Most clients of this dialect know no ids. A tool's message answers, of the calls before it that wait, the one that it
names by `tool_call_id`, else the first of its `tool_name`, else the first. One that no call waits for gets an id of its
own: nothing is dropped, and no other call is taken for its.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec

from cortex.core.errors import BadRequest
from cortex.wire.ollama.schema import Message, ToolCall

HubMessage = dict[str, Any]
Content = str | list[dict[str, Any]]

# How the first bytes of an image look in base64.
_IMAGES = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}


def hub_messages(messages: list[Message]) -> list[HubMessage]:
    """Return *messages* as the hub's. Raises BadRequest."""
    waiting = _Waiting({call.id for message in messages for call in message.tool_calls or () if call.id})
    return [_hub_message(message, waiting, f"messages[{at}]") for at, message in enumerate(messages)]


def hub_content(text: str, images: list[str] | None, where: str) -> Content:
    """Return *text* behind *images*, base64 each, in the order in which a model is shown them. Raises BadRequest."""
    if not images:
        return text
    parts = [_image(image, f"{where}[{at}]") for at, image in enumerate(images)]
    return [*parts, {"type": "text", "text": text}] if text else parts


class _Waiting:
    """The calls whose results have not come yet, by id, in their order."""

    def __init__(self, taken: set[str]) -> None:
        self._names: dict[str, str] = {}
        self._free = (name for at in count() if (name := f"call_{at}") not in taken)

    def call(self, asked: str | None, name: str) -> str:
        """Return the id of a call of *name*: the one that the client *asked* for, if it did."""
        call_id = asked or next(self._free)
        self._names[call_id] = name
        return call_id

    def result(self, message: Message) -> str:
        """Return the id of the call that *message* answers."""
        if message.tool_call_id:
            found = message.tool_call_id
        elif message.tool_name:
            found = next((id for id, name in self._names.items() if name == message.tool_name), "")
        else:
            found = next(iter(self._names), "")
        self._names.pop(found, None)
        return found or next(self._free)


def _hub_message(message: Message, waiting: _Waiting, where: str) -> HubMessage:
    content = hub_content(message.content or "", message.images, f"{where}.images")
    if message.role == "tool":
        name = {"name": message.tool_name} if message.tool_name else {}
        return {"role": "tool", "tool_call_id": waiting.result(message), **name, "content": content}
    hub: HubMessage = {"role": message.role, "content": content}
    if message.role == "assistant":
        if message.thinking:
            hub["reasoning_content"] = message.thinking
        if message.tool_calls:
            hub["content"] = content or None
            hub["tool_calls"] = [
                _call(call, waiting, f"{where}.tool_calls[{at}]") for at, call in enumerate(message.tool_calls)
            ]
    return hub


def _call(call: ToolCall, waiting: _Waiting, where: str) -> dict[str, Any]:
    function = call.function
    arguments = _arguments(function.arguments, f"{where}.function.arguments")
    call_id = waiting.call(call.id, function.name)
    return {"id": call_id, "type": "function", "function": {"name": function.name, "arguments": arguments}}


def _arguments(raw: msgspec.Raw, where: str) -> str:
    if not bytes(raw).startswith(b"{"):
        raise BadRequest(f"{where}: expected an object", param=where)
    return bytes(raw).decode()


def _image(image: str, where: str) -> dict[str, Any]:
    media = next((media for start, media in _IMAGES.items() if image.startswith(start)), None)
    if media is None:
        raise BadRequest(f"{where}: expected a PNG, JPEG, GIF or WebP image in base64", param=where)
    return {"type": "image_url", "image_url": {"url": f"data:{media};base64,{image}"}}
