"""What Anthropic's SDKs do with a stream: the order that they demand, and the message that they collect."""

from __future__ import annotations

import json
from typing import Any

Event = dict[str, Any]


def events_of(raw: bytes) -> list[Event]:
    """The events of *raw*; each must have its name on a line of its own, the same as in its data."""
    events = []
    for block in raw.decode().split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        assert [line.partition(": ")[0] for line in lines] == ["event", "data"], block
        data = json.loads(lines[1].removeprefix("data: "))
        assert lines[0] == f"event: {data['type']}"
        events.append(data)
    return events


def collected(raw: bytes) -> Event:
    """The message that a client collects from *raw*; fails where its order is wrong."""
    events = [event for event in events_of(raw) if event["type"] != "ping"]
    first, *middle, last, stop = events
    assert (first["type"], last["type"], stop["type"]) == ("message_start", "message_delta", "message_stop")
    message: Event = first["message"]
    assert message["content"] == []
    assert message["stop_reason"] is None
    block: Event | None = None
    arguments = ""
    for event in middle:
        assert event["index"] == len(message["content"])
        if event["type"] == "content_block_start":
            assert block is None
            block, arguments = event["content_block"], ""
            continue
        assert block is not None
        if event["type"] == "content_block_stop":
            if block["type"] == "tool_use":
                block["input"] = json_object(arguments)
            message["content"].append(block)
            block = None
            continue
        assert event["type"] == "content_block_delta"
        delta = event["delta"]
        kind = {"text_delta": "text", "input_json_delta": "tool_use"}.get(delta["type"], "thinking")
        assert block["type"] == kind
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
            case "thinking_delta":
                assert not block["signature"], "thinking after its signature"
                block["thinking"] += delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                arguments += delta["partial_json"]
    assert block is None
    message |= last["delta"]
    message["usage"] |= last["usage"]
    return message


def json_object(text: str) -> Event:
    """What a client takes for the input of a tool."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
