"""The gateway's list of models in Anthropic's shape, page by page.

Source: the Anthropic API reference, "List Models": pages of 20 unless asked for otherwise, at most 1000.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cortex.core.errors import BadRequest

DEFAULT_LIMIT, MAX_LIMIT = 20, 1000

Entry = dict[str, Any]


def describe_model(entry: Entry) -> Entry:
    """Return one entry of the gateway's listing as Anthropic's `ModelInfo`; *created* is in seconds since 1970."""
    created = datetime.fromtimestamp(entry["created"], UTC)
    context = entry.get("context_length")
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": context,
        "max_tokens": context,
    }


def list_models(
    data: Sequence[Entry], *, after_id: str | None = None, before_id: str | None = None, limit: int = DEFAULT_LIMIT
) -> Entry:
    """Return the page of *data* right after *after_id*, or right before *before_id*, of at most *limit* models.

    *data* is sorted by id; an id that is not there any more still says where its page begins. `has_more` tells of
    models beyond the page, in the direction of reading. Raises BadRequest.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f"limit: expected 1 to {MAX_LIMIT}", param="limit")
    if after_id is not None and before_id is not None:
        raise BadRequest("before_id: not together with after_id", param="before_id")
    if before_id is not None:
        found = [entry for entry in data if entry["id"] < before_id]
        page = found[-limit:]
    else:
        found = [entry for entry in data if after_id is None or entry["id"] > after_id]
        page = found[:limit]
    return {
        "data": [describe_model(entry) for entry in page],
        "has_more": len(found) > len(page),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }
