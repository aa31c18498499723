"""Read a request in the dialect of its path: what it asks of the hub, and how its answer is told."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cortex.gateway.stored_responses import StoredResponses
from cortex.serving.exchange import Exchange
from cortex.wire.anthropic import read_messages
from cortex.wire.envelopes import MESSAGES
from cortex.wire.openai import CHAT, KINDS, read_head
from cortex.wire.responses.items import response_of
from cortex.wire.responses.request import previous_id, referenced_ids
from cortex.wire.responses.translation import ResponsesTranslation, read_responses
from cortex.wire.sse import comment
from cortex.wire.translation import Translation

RESPONSES = "/v1/responses"
PATHS = (*KINDS, MESSAGES, RESPONSES)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the hub has it. *translation* is None where the client speaks the hub's dialect: its bytes pass."""

    model: str
    stream: bool
    path: str
    body: bytes
    translation: Translation | None = None

    @property
    def ignored(self) -> tuple[str, ...]:
        """The fields that the translation accepted and that change nothing."""
        return self.translation.ignored if self.translation is not None else ()

    def keep_alive(self, text: str) -> bytes:
        """Return what fills a silence in this dialect."""
        return self.translation.keep_alive(text) if self.translation is not None else comment(text)


class Dialects:
    """Reads requests. What the Responses dialect refers to is in *stored*."""

    def __init__(self, stored: StoredResponses) -> None:
        self._stored = stored

    def read(self, exchange: Exchange, owner: str) -> Asked:
        """Return what *exchange* asks for, on behalf of the key *owner*. Raises BadRequest."""
        body = exchange.body
        if exchange.path == MESSAGES:
            return _translated(read_messages(body))
        if exchange.path == RESPONSES:
            return _translated(self._responses(body, owner))
        head = read_head(body)
        return Asked(head.model, bool(head.stream), exchange.path, body)

    def done(self, asked: Asked, owner: str) -> None:
        """Take note that *asked* was answered whole: a response is kept if its client wants that."""
        translation = asked.translation
        if isinstance(translation, ResponsesTranslation) and translation.store:
            stored = translation.stored()
            if stored is not None:
                self._stored.keep(stored, owner, time.time())

    def _responses(self, body: bytes, owner: str) -> ResponsesTranslation:
        response_id = f"resp_{secrets.token_hex(16)}"
        previous = self._items_of(previous_id(body), owner)
        references = self._references(referenced_ids(body), owner)
        return read_responses(
            body, response_id=response_id, created_at=int(time.time()), previous=previous, references=references
        )

    def _items_of(self, response_id: str | None, owner: str) -> Sequence[msgspec.Raw]:
        found = self._stored.find(response_id, owner, time.time()) if response_id is not None else None
        return found.items if found is not None else ()

    def _references(self, item_ids: Sequence[str], owner: str) -> Mapping[str, msgspec.Raw]:
        """Return the items that a request names, by their ids; those that are not kept are left out."""
        items: dict[str, msgspec.Raw] = {}
        for response_id in {response_of(item_id) for item_id in item_ids}:
            found = self._stored.find(response_id, owner, time.time())
            for raw in found.output if found is not None else ():
                item_id = msgspec.json.decode(raw).get("id")
                if item_id in item_ids:
                    items[item_id] = raw
        return items


def _translated(translation: Translation) -> Asked:
    return Asked(translation.model, translation.stream, CHAT, translation.body, translation)
