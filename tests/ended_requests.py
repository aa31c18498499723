"""Requests that have ended, as the data path hands them over."""

from __future__ import annotations

from typing import Any

from cortex.gateway.trace.record import Record
from cortex.wire.engine_api import Timings, Usage
from cortex.wire.sse import Trailer

TRAILER = Trailer(Usage(7, 11, 2), Timings(queue_ms=50, prefill_ms=200, decode_ms=1000), "stop")


def ended(**fields: Any) -> Record:
    """Return a chat that was answered, from 100 s on, where *fields* do not say otherwise."""
    usual: dict[str, Any] = {
        "id": "req-1",
        "path": "/v1/chat/completions",
        "key": "alice",
        "asked": "m",
        "model": "m",
        "label": "m",
        "node": "a",
        "stream": True,
        "arrived": 100.0,
        "ended": 102.0,
        "asked_at": 100.1,
        "chosen_at": 100.4,
        "wait_seconds": 0.3,
        "place": 0,
        "attempts": 1,
        "failures": None,
        "choice": None,
        "sent_at": 100.5,
        "events": 11,
        "trailer": TRAILER,
        "status": 200,
        "code": None,
        "reason": "",
        "limit": None,
        "paid": TRAILER.usage,
        "let_in": True,
        "received_bytes": 80,
        "sent_bytes": 900,
        "traceparent": None,
    }
    return Record(**{**usual, **fields})
