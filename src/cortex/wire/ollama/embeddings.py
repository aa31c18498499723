"""Ollama's `/api/embed`, and the older `/api/embeddings` of one text, as the hub's embeddings and back.

Nothing is ever truncated: a text that is too long is refused, whatever `truncate` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cortex.core.errors import CortexError, UpstreamFailed
from cortex.wire import json
from cortex.wire.engine_api import Timings
from cortex.wire.hub_stream import HubUsage
from cortex.wire.ollama.models import plain_name
from cortex.wire.ollama.request import named
from cortex.wire.ollama.schema import EmbeddingsRequest, EmbedRequest
from cortex.wire.ollama.times import kept_seconds, nanoseconds


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Answer(msgspec.Struct):
    data: list[_Vector]
    usage: HubUsage | None = None


_embed = msgspec.json.Decoder(EmbedRequest)
_embeddings = msgspec.json.Decoder(EmbeddingsRequest)
_answer = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, slots=True)
class Embedding:
    """A request for vectors of *count* texts; one of none `loads_only`, and is answered without the hub.

    *name* is the model as the client calls it, *model* as the hub does; *is_legacy* is one of `/api/embeddings`.
    """

    name: str
    model: str
    body: bytes
    count: int
    ignored: tuple[str, ...]
    keep_loaded_seconds: float | None
    is_legacy: bool

    @property
    def loads_only(self) -> bool:
        """Whether there is nothing to embed."""
        return self.count == 0

    def answer(self, answer: bytes, timings: Timings | None = None, load_ms: float = 0.0) -> bytes:
        """Return the hub's *answer* in the dialect's shape, with what is known of time. Raises UpstreamFailed."""
        try:
            read = _answer.decode(answer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise UpstreamFailed("the node's answer could not be read") from None
        vectors = sorted(read.data, key=lambda vector: vector.index)
        if [vector.index for vector in vectors] != list(range(self.count)):
            raise UpstreamFailed(f"the node answered with {len(vectors)} embeddings for {self.count} texts")
        return self._shape([vector.embedding for vector in vectors], read.usage, timings or Timings(), load_ms)

    def loaded(self) -> bytes:
        """Return the answer to a request that `loads_only`."""
        return self._shape([], None, Timings(), 0.0)

    def _shape(self, vectors: list[list[float]], usage: HubUsage | None, took: Timings, load_ms: float) -> bytes:
        if self.is_legacy:
            return json.encode({"embedding": vectors[0] if vectors else []})
        return json.encode(
            {
                "model": self.name,
                "embeddings": vectors,
                "total_duration": nanoseconds(load_ms + took.queue_ms + took.prefill_ms + took.decode_ms),
                "load_duration": nanoseconds(load_ms),
                "prompt_eval_count": usage.prompt_tokens if usage else 0,
            }
        )


class EmbeddingTranslation:
    """See `wire.translation.Translation`: an embedding has one answer, never a stream."""

    content_type = b"application/json"
    stream = False

    def __init__(self, embedding: Embedding) -> None:
        self.model, self.body, self.ignored = embedding.model, embedding.body, embedding.ignored
        self.loads_only, self.keep_loaded_seconds = embedding.loads_only, embedding.keep_loaded_seconds
        self._embedding = embedding
        self._timings: Timings | None = None
        self._load_ms = 0.0

    def note_timings(self, timings: Timings | None, load_ms: float = 0.0) -> None:
        """Take what the answer says of time."""
        self._timings, self._load_ms = timings, load_ms

    def whole(self, answer: bytes) -> bytes:
        """Return the hub's *answer* in the dialect's shape. Raises UpstreamFailed."""
        return self._embedding.answer(answer, self._timings, self._load_ms)

    def loaded(self, _: str = "load") -> bytes:
        """Return the answer to a request that `loads_only`."""
        return self._embedding.loaded()

    def feed(self, _: bytes) -> bytes:
        """Return nothing: there is no stream."""
        return b""

    def end(self) -> bytes:
        """Return nothing: there is no stream."""
        return b""

    def fail(self, _: CortexError) -> bytes:
        """Return nothing: there is no stream."""
        return b""

    def keep_alive(self, _: str) -> bytes:
        """Return nothing: there is no stream."""
        return b""


def read_embed(body: bytes) -> Embedding:
    """Return the body of `POST /api/embed` as a request for the hub. Raises BadRequest."""
    fields = json.fields_of(body)
    asked = json.decode(body, _embed)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input or []
    shortened = {"dimensions": asked.dimensions} if asked.dimensions else {}
    return _embedding(asked, [] if texts == [""] else texts, set(fields), shortened, is_legacy=False)


def read_embeddings(body: bytes) -> Embedding:
    """Return the body of `POST /api/embeddings` as a request for the hub. Raises BadRequest."""
    fields = json.fields_of(body)
    asked = json.decode(body, _embeddings)
    return _embedding(asked, [asked.prompt] if asked.prompt else [], set(fields), {}, is_legacy=True)


def _embedding(
    asked: EmbedRequest | EmbeddingsRequest,
    texts: list[str],
    fields: set[str],
    hub: dict[str, int],
    *,
    is_legacy: bool,
) -> Embedding:
    kept, model = kept_seconds(asked.keep_alive), plain_name(asked.model)
    ignored = fields - set(asked.__struct_fields__) | ({"keep_alive"} if kept else set())
    body = json.encode({"model": model, "input": texts, **hub}) if texts else b""
    return Embedding(asked.model, model, body, len(texts), named(ignored), kept, is_legacy)
