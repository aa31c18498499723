"""Read a request in the dialect of its path: what it asks of the hub, and how its answer is told."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence

import msgspec

from cortex.core.logging import get_logger
from cortex.gateway.stored_responses import StoredResponses
from cortex.serving.exchange import EVENT_STREAM, Exchange
from cortex.wire import ollama
from cortex.wire.anthropic import read_messages
from cortex.wire.engine_api import Timings
from cortex.wire.envelopes import MESSAGES
from cortex.wire.openai import CHAT, COMPLETION, EMBEDDING, KINDS, read_head
from cortex.wire.responses.items import response_of
from cortex.wire.responses.request import previous_id, referenced_ids
from cortex.wire.responses.stored import StoredResponse
from cortex.wire.responses.translation import ResponsesTranslation, read_responses
from cortex.wire.sse import comment
from cortex.wire.translation import Translation

log = get_logger(__name__)

RESPONSES = "/v1/responses"
OLLAMA_CHAT, OLLAMA_GENERATE = "/api/chat", "/api/generate"
OLLAMA_EMBED, OLLAMA_EMBEDDINGS = "/api/embed", "/api/embeddings"
OLLAMA = (OLLAMA_CHAT, OLLAMA_GENERATE, OLLAMA_EMBED, OLLAMA_EMBEDDINGS)
PATHS = (*KINDS, MESSAGES, RESPONSES, *OLLAMA)
_OLLAMA = (ollama.OllamaTranslation, ollama.EmbeddingTranslation)
_GENERATING = frozenset({CHAT, COMPLETION})


class Asked(msgspec.Struct, frozen=True, eq=False):
    """A request as the hub has it. *translation* is None where the client speaks the hub's dialect: its bytes pass.

    *max_tokens* is the longest answer that is asked for, if any is.
    """

    model: str
    stream: bool
    path: str
    body: bytes
    translation: Translation | None = None
    max_tokens: int | None = None

    @property
    def ignored(self) -> tuple[str, ...]:
        """The fields that the translation accepted and that change nothing."""
        return self.translation.ignored if self.translation is not None else ()

    @property
    def content_type(self) -> bytes:
        """What a stream of it is."""
        return self.translation.content_type if self.translation is not None else EVENT_STREAM

    @property
    def loads_only(self) -> bool:
        """Whether nothing is asked but that the model be there, or be gone."""
        return isinstance(self.translation, _OLLAMA) and self.translation.loads_only

    @property
    def lets_go(self) -> bool:
        """Whether the client is done with the model once it has its answer, if it wants one."""
        return isinstance(self.translation, _OLLAMA) and self.translation.keep_loaded_seconds == 0

    def loaded(self) -> bytes:
        """Return the answer to a request that `loads_only`."""
        assert isinstance(self.translation, _OLLAMA)
        return self.translation.loaded("unload" if self.lets_go else "load")

    def note_timings(self, timings: Timings, wait_seconds: float) -> None:
        """Tell a dialect that speaks of time where it went."""
        if isinstance(self.translation, _OLLAMA):
            self.translation.note_timings(timings, 1000 * wait_seconds)

    def keep_alive(self, text: str) -> bytes:
        """Return what fills a silence in this dialect."""
        return self.translation.keep_alive(text) if self.translation is not None else comment(text)


class Dialects:
    """Reads requests. What the Responses dialect refers to is in *stored*."""

    def __init__(self, stored: StoredResponses) -> None:
        self._stored = stored

    def read(self, exchange: Exchange, owner: str) -> Asked:
        """Return what *exchange* asks for, on behalf of the key *owner*. Raises BadRequest."""
        path, body = exchange.path, exchange.body
        if path == MESSAGES:
            return _translated(read_messages(body))
        if path == RESPONSES:
            return _translated(self._responses(body, owner))
        if path in OLLAMA:
            return _read_ollama(path, body)
        head = read_head(body)
        # Nothing else is streamed, whatever `stream` says: it is ignored by name.
        generates = path in _GENERATING
        return Asked(
            head.model,
            stream=bool(head.stream) and generates,
            path=path,
            body=body,
            max_tokens=head.limit if generates else 0,
        )

    def done(self, asked: Asked, owner: str) -> None:
        """Take note that *asked* was answered whole: a response is kept if its client wants that."""
        translation = asked.translation
        if isinstance(translation, ResponsesTranslation) and translation.store:
            stored = translation.stored()
            if stored is not None:
                self._keep(stored, owner)

    def _keep(self, response: StoredResponse, owner: str) -> None:
        """Keep *response*. Its client has it already: a full disk costs no more than what might go on from it."""
        try:
            self._stored.keep(response, owner, time.time())
        except sqlite3.Error as error:
            log.warning("response_not_kept", response=response.id, error=str(error))

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


def _read_ollama(path: str, body: bytes) -> Asked:
    if path in (OLLAMA_EMBED, OLLAMA_EMBEDDINGS):
        embedding = ollama.read_embed(body) if path == OLLAMA_EMBED else ollama.read_embeddings(body)
        return Asked(embedding.model, False, EMBEDDING, embedding.body, ollama.EmbeddingTranslation(embedding), 0)
    read = ollama.read_chat if path == OLLAMA_CHAT else ollama.read_generate
    translation = read(body, created_at=time.time())
    limit = 0 if translation.loads_only else read_head(translation.body).limit
    hub_path = COMPLETION if translation.kind == "completion" else CHAT
    return Asked(translation.model, translation.stream, hub_path, translation.body, translation, limit)


def _translated(translation: Translation) -> Asked:
    limit = read_head(translation.body).limit
    return Asked(translation.model, translation.stream, CHAT, translation.body, translation, limit)
