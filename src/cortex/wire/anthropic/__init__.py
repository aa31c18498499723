"""The Anthropic Messages dialect over the hub's OpenAI chat: requests, streams, answers, errors, token counts, models.

    translation = read_messages(body)         POST /v1/messages; `translation.body` goes to the hub
    counting = count_tokens(body)             POST /v1/messages/count_tokens; `counting.body` goes to `/tokenize`
    list_models(entries), describe_model(…)   GET /v1/models
    status_of(error), error_body(error, id)   what a refusal is here

Source: the Anthropic API reference, version 2023-06-01 and later, and what its SDKs and Claude Code send and demand.
"""

from cortex.wire.anthropic.errors import error_body, status_of
from cortex.wire.anthropic.models import describe_model, list_models
from cortex.wire.anthropic.request import Counting, count_tokens
from cortex.wire.anthropic.translation import Messages, read_messages

__all__ = [
    "Counting",
    "Messages",
    "count_tokens",
    "describe_model",
    "error_body",
    "list_models",
    "read_messages",
    "status_of",
]
