"""Orders to a running gateway's fleet API, and what it tells as it happens."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec

from cortex.cli.failures import Failure
from cortex.cli.gateway_client import ANSWER_SECONDS, CONNECT_SECONDS, key_hint, unreachable
from cortex.cli.options import key_headers
from cortex.cli.sse_client import Data, SseReader
from cortex.wire.errors import error_from

# The gateway breaks every silence within a second or so.
SILENCE_SECONDS = 10.0


class NotThere(Failure):
    """The gateway knows nothing of that name."""


class Lost(Exception):
    """The gateway does not answer, or has stopped telling."""


class Entry(msgspec.Struct):
    """Something that happened: a request that was served, for one, which alone has the later fields.

    `time` and `arrived` are in seconds since 1970, by the gateway's clock; `count` is of entries that were `missed`.
    """

    kind: str
    time: float
    model: str = ""
    arrived: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    session: str | None = None
    stream: bool = False
    count: int = 0


_entry = msgspec.json.Decoder(Entry)


def ask(endpoint: str, path: str, method: str = "GET", body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the object that the gateway answers with. Raises NotThere, and Failure that says what to do."""
    try:
        answer = httpx2.request(
            method, endpoint + path, json=body, headers=key_headers(), timeout=ANSWER_SECONDS, trust_env=False
        )
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Failure(unreachable(endpoint, error)) from None
    if answer.status_code >= 300:
        raise _refusal(endpoint + path, answer.status_code, answer.content)
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Failure(f"{endpoint}{path} does not answer as a gateway does; is another program there?") from None


def explain(endpoint: str, model: str) -> dict[str, Any]:
    """Return what would happen to a request for *model*, and why. Raises NotThere, Failure."""
    return ask(endpoint, f"/fleet/explain/{quote(model, safe='/')}")


def listen(endpoint: str) -> Generator[Entry | None, None, None]:
    """Yield what happens in the fleet from now on, and None as soon as it is heard, then for each second of silence.

    Raises Lost when the gateway cannot be reached or ends, Failure when it refuses.
    """
    url, timeout = f"{endpoint}/fleet/events", httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    try:
        with httpx2.stream("GET", url, headers=key_headers(), timeout=timeout, trust_env=False) as answer:
            if answer.status_code >= 500:
                raise Lost(str(error_from(answer.status_code, answer.read())))
            if answer.status_code != 200:
                raise _refusal(url, answer.status_code, answer.read())
            reader = SseReader()
            for received in answer.iter_bytes():
                for event in reader.feed(received):
                    yield _read(event.text) if isinstance(event, Data) else None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Lost(unreachable(endpoint, error)) from None
    raise Lost(f"{endpoint} has stopped telling")


def _read(text: str) -> Entry:
    try:
        return _entry.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Failure(f"the gateway told something that cannot be understood: {error}") from None


def _refusal(url: str, status: int, body: bytes) -> Failure:
    error = error_from(status, body)
    is_ours = error.code != "upstream_malformed_response"
    said = f"{error}{key_hint(status)}" if is_ours else f"{url}: {error}"
    return (NotThere if status == 404 else Failure)(said)
