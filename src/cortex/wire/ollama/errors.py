"""Errors as Ollama says them: `{"error": "…"}` under the status that the error has everywhere else."""

from __future__ import annotations

from cortex.core.errors import CortexError
from cortex.wire import json
from cortex.wire.errors import ErrorBody


def error_body(error: CortexError | ErrorBody) -> bytes:
    """Return *error* as a body; its message is all that clients are told beside the status."""
    return json.encode({"error": error.message})
