"""`POST /v1/rerank` as Jina and Cohere have it: documents in the order of how well they answer a query.

An engine is given the query and the documents and gives, in their order, one score a document between 0 (beside the
point) and 1 (to the point), and how many tokens it read. A document that is too long for it is refused and never cut: a
score of half a document would pass for one of the whole.

Source: Jina's and Cohere's API references (rerank).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cortex.core.errors import BadRequest, EngineFailed
from cortex.wire import json

RERANK = "/v1/rerank"
MAX_DOCUMENTS = 10_000

_Text = Annotated[str, Meta(min_length=1)]

# These change the scores, or what a document is, and are not offered: refused, never dropped.
_REFUSED = {
    "max_chunks_per_doc": "documents are not cut into chunks",
    "max_tokens_per_doc": "documents are not cut",
    "truncate_prompt_tokens": "documents are not cut",
    "rank_fields": "send each document as one text",
}


class _Document(msgspec.Struct):
    text: str


class RerankBody(msgspec.Struct, kw_only=True):
    """`POST /v1/rerank`. None stands for absent."""

    model: _Text
    query: _Text
    documents: Annotated[list[str | _Document], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None


_body = msgspec.json.Decoder(RerankBody)


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """A request that was read whole; *top_n* is how many results are asked for, at most."""

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int
    returns_documents: bool
    ignored: tuple[str, ...]

    def answer(self, scores: Sequence[float], prompt_tokens: int) -> bytes:
        """Return the answer for the documents' *scores*: the best first, and among equals the one that came first.

        Raises EngineFailed if there is not one score between 0 and 1 for each document.
        """
        if len(scores) != len(self.documents):
            counts = f"{len(scores)} scores for {len(self.documents)} documents"
            raise EngineFailed(f"the engine gave {counts}", code="engine_answer_invalid")
        if not all(0.0 <= score <= 1.0 for score in scores):
            raise EngineFailed("the engine gave a score that is not between 0 and 1", code="engine_answer_invalid")
        best = sorted(range(len(scores)), key=lambda at: -scores[at])[: self.top_n]
        return json.encode(
            {
                "object": "list",
                "model": self.model,
                "results": [self._result(at, scores[at]) for at in best],
                "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
            }
        )

    def _result(self, at: int, score: float) -> dict[str, Any]:
        result: dict[str, Any] = {"index": at, "relevance_score": float(score)}
        return {**result, "document": {"text": self.documents[at]}} if self.returns_documents else result


def read_rerank(body: bytes) -> RerankRequest:
    """Return *body* checked field by field. Raises BadRequest naming the parameter that is wrong."""
    fields = json.fields_of(body)
    for name in sorted(_REFUSED.keys() & fields.keys()):
        if bytes(fields[name]) != b"null":
            raise BadRequest(f"{name}: {_REFUSED[name]}", param=name, code="unsupported_parameter")
    asked = json.decode(body, _body)
    documents = tuple(each if isinstance(each, str) else each.text for each in asked.documents)
    unknown = fields.keys() - set(RerankBody.__struct_fields__) - _REFUSED.keys()
    return RerankRequest(
        model=asked.model,
        query=asked.query,
        documents=documents,
        top_n=min(asked.top_n or len(documents), len(documents)),
        returns_documents=bool(asked.return_documents),
        ignored=tuple(sorted({json.printable(name) for name in unknown})),
    )
