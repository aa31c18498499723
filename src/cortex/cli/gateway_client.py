"""Ask a running gateway: plain listings, and answers as they come."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec

from cortex.cli.failures import Failure
from cortex.cli.options import key_headers
from cortex.cli.sse_client import Comment, Data, SseReader
from cortex.wire.errors import ErrorBody, error_from

ANSWER_SECONDS = 5.0
CONNECT_SECONDS = 5.0
# The gateway breaks every silence within a second or so: this long without a byte means that it is gone.
SILENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing yet; *why* is the gateway's own comment."""

    why: str


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the answer, or of the *reasoning* before it."""

    text: str
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is whole: how it ended, and its tokens where the gateway counted them."""

    finish_reason: str | None
    completion_tokens: int | None


Piece = Waiting | Said | Ended


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: ErrorBody | None = None


_chunk = msgspec.json.Decoder(_Chunk)


def get_json(endpoint: str, path: str) -> dict[str, Any]:
    """Return the object that `GET path` answers with. Raises Failure that says what to do."""
    try:
        answer = httpx2.get(endpoint + path, headers=key_headers(), timeout=ANSWER_SECONDS, trust_env=False)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Failure(unreachable(endpoint, error)) from None
    if answer.status_code != 200:
        said = error_from(answer.status_code, answer.content)
        raise Failure(f"{endpoint}{path}: {said}{key_hint(answer.status_code)}")
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Failure(f"{endpoint}{path} does not answer as a gateway does; is another program there?") from None


def key_hint(status: int) -> str:
    """Return what to tell somebody whom the gateway does not let in."""
    return "; give one with --key or CORTEX_API_KEY" if status in (401, 403) else ""


def unreachable(endpoint: str, error: Exception) -> str:
    """Return what to tell somebody whose gateway does not answer."""
    reason = "no answer in time" if isinstance(error, httpx2.TimeoutException) else str(error) or type(error).__name__
    return (
        f"no gateway answers at {endpoint} ({reason}); start one with `cortex up` or `cortex serve`, "
        "or name another with -e URL"
    )


def stream_chat(endpoint: str, request: Mapping[str, Any]) -> Generator[Piece, None, None]:
    """Send *request* to the chat route and yield its answer piece by piece; an `Ended` comes last.

    Closing the generator breaks the request off. Raises Failure, also when the answer was cut short.
    """
    body = {**request, "stream": True, "stream_options": {"include_usage": True}}
    url, timeout = f"{endpoint}/v1/chat/completions", httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    connected = False
    try:
        with httpx2.stream("POST", url, json=body, headers=key_headers(), timeout=timeout, trust_env=False) as answer:
            connected = True
            if answer.status_code != 200:
                raise Failure(f"{error_from(answer.status_code, answer.read())}{key_hint(answer.status_code)}")
            yield from read_answer(answer.iter_bytes())
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        if not connected:
            raise Failure(unreachable(endpoint, error)) from None
        raise Failure(f"the connection to {endpoint} was lost ({str(error) or type(error).__name__})") from None


def read_answer(stream: Iterable[bytes]) -> Generator[Piece, None, None]:
    """Yield what the bytes of a chat stream say. Raises Failure for an error event and for a stream without its end."""
    reader, finish_reason, tokens = SseReader(), None, None
    for received in stream:
        for event in reader.feed(received):
            match event:
                case Comment(text):
                    yield Waiting(text)
                case Data("[DONE]"):
                    yield Ended(finish_reason, tokens)
                    return
                case Data(text):
                    chunk = _decode(text)
                    yield from _said(chunk)
                    finish_reason = next((c.finish_reason for c in chunk.choices if c.finish_reason), finish_reason)
                    tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    raise Failure("the answer was cut short: the stream ended without its end mark")


def _said(chunk: _Chunk) -> Generator[Said, None, None]:
    for choice in chunk.choices:
        if choice.delta.reasoning_content:
            yield Said(choice.delta.reasoning_content, reasoning=True)
        if choice.delta.content:
            yield Said(choice.delta.content)


def _decode(text: str) -> _Chunk:
    try:
        chunk = _chunk.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Failure(f"the gateway sent an event that is not a chat chunk: {error}") from None
    if chunk.error is not None:
        raise Failure(chunk.error.message or "the gateway reported an error without a message")
    return chunk
