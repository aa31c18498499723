"""Hold an answer to a JSON schema, token by token, by the llguidance library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer

from cortex.core.errors import BadRequest

# Compact on one line, as models write it: free white space lets a small model go on for ever.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarError(Exception):
    """The grammar and the answer came apart; the answer cannot go on."""


class Grammars:
    """Makes matchers for one vocabulary, which takes a second to prepare and is prepared once."""

    def __init__(self, backend: Any, vocabulary_size: int, stop_ids: Sequence[int]) -> None:
        self._backend, self._size, self._stops = backend, vocabulary_size, list(stop_ids)
        self._tokenizer: Any = None

    def matcher(self, schema: dict[str, Any], at: str) -> Matcher:
        """Return a matcher of *schema*. Raises BadRequest with what the library cannot enforce, naming *at*."""
        if self._tokenizer is None:
            self._tokenizer = self._prepared(at)
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=_STYLE)
        except ValueError as error:
            raise BadRequest(f"{at}: {error}", param=at) from None
        if problem := LLMatcher.validate_grammar(grammar, self._tokenizer):
            raise BadRequest(f"{at}: cannot be enforced: {problem.strip().splitlines()[0]}", param=at)
        return Matcher(LLMatcher(self._tokenizer, grammar))

    def _prepared(self, at: str) -> Any:
        try:
            return LLTokenizer(self._backend.to_str(), n_vocab=self._size, eos_token=self._stops)
        except ValueError as error:
            raise BadRequest(f"{at}: this model's tokenizer is of a kind that is held to no schema: {error}") from None


class Matcher:
    """How far one answer is in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, size: int) -> Any:
        """Return which of *size* tokens may follow, as a tensor of booleans. Raises GrammarError."""
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        self._check()
        spread = (bits.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
        allowed = spread.flatten().bool()[:size]
        return torch.nn.functional.pad(allowed, (0, size - len(allowed)))

    def accept(self, token: int) -> None:
        """Go on by *token*. Raises GrammarError."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(self._matcher.get_error())
