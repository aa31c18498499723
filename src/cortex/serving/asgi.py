"""Run an ASGI application on an exchange: for everything that is not the data path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from cortex.serving.exchange import Exchange

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


async def run_asgi(application: Application, exchange: Exchange, state: Any) -> None:
    """Serve *exchange* by *application*; an answer that comes in one piece is sent with its length."""
    asked = False
    head: tuple[int, list[tuple[bytes, bytes]]] | None = None

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await asyncio.get_running_loop().create_future()  # cancelled with the handler when the client is gone
        asked = True
        return {"type": "http.request", "body": exchange.body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal head
        if message["type"] == "http.response.start":
            headers = [(bytes(k).lower(), bytes(v)) for k, v in message.get("headers", ())]
            head = message["status"], [(k, v) for k, v in headers if k != b"content-length"]
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not exchange.started:
            assert head is not None
            exchange.start(*head, length=None if more else len(body))
        if exchange.method != "HEAD":
            exchange.write(body)
        if more:
            await exchange.writable()
        else:
            exchange.finish()

    await application(_scope(exchange, state), receive, send)


def _scope(exchange: Exchange, state: Any) -> dict[str, Any]:
    others = (pair for pair in exchange.head.headers if pair[0] != b"x-request-id")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1" if exchange.head.http_11 else "1.0",
        "method": exchange.method,
        "scheme": "http",
        "path": unquote(exchange.path),
        "raw_path": exchange.path.encode("latin-1"),
        "query_string": exchange.head.query,
        "root_path": "",
        "headers": [*others, (b"x-request-id", exchange.request_id.encode())],
        "client": exchange.peer,
        "server": None,
        "state": dict(state),
        "extensions": {"cortex.exchange": exchange},
    }
