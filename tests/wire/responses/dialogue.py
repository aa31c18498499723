"""Both ends of a translation: what the hub says, and what the client's SDK understands of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from cortex.core.errors import BadRequest
from cortex.wire.openai import read_request
from cortex.wire.responses.translation import ResponsesTranslation, read_responses

DONE = b"data: [DONE]\n\n"
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 2}}

PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ" + (
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

Value = dict[str, Any]

_events: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def raw(*items: Value) -> list[msgspec.Raw]:
    return [msgspec.Raw(json.dumps(item).encode()) for item in items]


def read(previous: Iterable[Value] = (), references: dict[str, Value] | None = None, **fields: Any) -> Any:
    """Return the translation of a request with *fields*."""
    body = json.dumps({"model": "m", "input": "hi", **fields}).encode()
    known = {key: raw(item)[0] for key, item in (references or {}).items()}
    return read_responses(body, response_id="resp_1", created_at=5, previous=raw(*previous), references=known)


def hub_body(**fields: Any) -> Value:
    """Return the hub's body for a request with *fields*, which the hub accepts."""
    body = read(**fields).body
    read_request("chat", body)
    value: Value = json.loads(body)
    return value


def chat(*items: Value, **fields: Any) -> list[Value]:
    """Return the messages that the hub gets for *items*."""
    found: list[Value] = hub_body(input=list(items), **fields)["messages"]
    return found


def refused(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    return caught.value


def streaming(**fields: Any) -> ResponsesTranslation:
    translation: ResponsesTranslation = read(**{"stream": True, **fields})
    return translation


# the client's items ---------------------------------------------------------------------------------------------------


def says(role: str, *texts: str) -> Value:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in texts]}


def makes(call_id: str, name: str = "f", arguments: str = "{}", **more: Any) -> Value:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}


def gives(call_id: str, output: Any = "done") -> Value:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def thinks(text: str, **more: Any) -> Value:
    return {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
        **more,
    }


def roles(messages: list[Value]) -> list[str]:
    return [message["role"] for message in messages]


# the hub's stream -----------------------------------------------------------------------------------------------------


def data(value: Value) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def chunk(finish: str | None = None, logprobs: Any = None, **delta: Any) -> bytes:
    return data({**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}]})


def usage(**more: Any) -> bytes:
    return data({**HEAD, "choices": [], "usage": {**USAGE, **more}})


def call(index: int, arguments: str | None = None, name: str | None = None, call_id: str | None = None) -> Value:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"index": index, **({"id": call_id, "type": "function"} if call_id else {}), "function": function}


def calls(*deltas: Value) -> bytes:
    return chunk(tool_calls=list(deltas))


def ended(reason: str = "stop") -> bytes:
    return chunk(reason) + usage() + DONE


# the client's stream --------------------------------------------------------------------------------------------------


def collected(*pieces: bytes, **fields: Any) -> list[Value]:
    """Return the events of a stream of *pieces* that answers a request with *fields*."""
    return told(streaming(**fields), *pieces)


def told(translation: ResponsesTranslation, *pieces: bytes) -> list[Value]:
    """Return the events of a whole stream of *pieces*."""
    return events(b"".join([*(translation.feed(piece) for piece in pieces), translation.end()]))


def events(stream: bytes) -> list[Value]:
    """Return the events in *stream*, each of which the SDK knows, in a stream that any client reads."""
    found = [_event(block) for block in stream.split(b"\n\n") if block and not block.startswith(b":")]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def _event(block: bytes) -> Value:
    name, payload = block.split(b"\n")
    value: Value = json.loads(payload.removeprefix(b"data: "))
    assert name == b"event: " + value["type"].encode()
    if value.get("response", {}).get("error"):
        check_response(value["response"])
    else:
        _events.validate_python(value)
    return value


def check_response(value: Value) -> Value:
    """Return *value*, which the SDK takes for a response."""
    error = value["error"]
    # The one code that the SDK's list lacks: clients recover from it by name, and the API sends it.
    known = error is None or error["code"] != "context_length_exceeded"
    Response.model_validate(value if known else {**value, "error": {**error, "code": "invalid_prompt"}})
    return value


def types(found: Iterable[Value]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


def of(found: Iterable[Value], kind: str) -> Iterator[Value]:
    return (event for event in found if event["type"] == f"response.{kind}")


def output(found: list[Value]) -> list[Value]:
    """Return the output of the response that the last event carries; it is what the items' own events said."""
    response = found[-1]["response"]
    done = sorted(of(found, "output_item.done"), key=lambda event: int(event["output_index"]))
    if response["status"] != "failed":
        assert [event["item"] for event in done] == response["output"]
        assert [event["output_index"] for event in of(found, "output_item.added")] == list(range(len(done)))
    items: list[Value] = response["output"]
    return items
