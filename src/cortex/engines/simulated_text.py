"""Tokens, prose and vectors out of nothing but a seed: the text behind the simulated engine. Pure.

A token is up to six characters of a word with the white space before it, or white space at the end. Every text is the
concatenation of its tokens.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import zlib
from collections.abc import Iterable
from typing import Any

from cortex.core.errors import BadRequest
from cortex.wire import json
from cortex.wire.openai import Message, Tool

IMAGE_TOKENS = 256

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\s*\S{1,6}|\s+")
# At most five letters: with its space before and a full stop after, each word is one token.
_TEXT = (
    "a the one each cold warm quiet small late early river stone light house road field night cloud grain paper wheel "
    "lamp coast north table voice glass water train clock bird hill moves waits turns holds keeps finds asks gives "
    "takes falls opens near under over past until while and but so then here there again once never often"
)
_WORDS = tuple(_TEXT.split())


def tokens_of(text: str) -> list[str]:
    """Return the tokens of *text*."""
    return _TOKEN.findall(text)


def token_id(token: str) -> int:
    """Return the id of *token*: a hash, since there is no vocabulary."""
    return zlib.crc32(token.encode("utf-8", "replace"))


def dice(*parts: Any) -> random.Random:
    """Return a source of chance that is a function of *parts*."""
    digest = hashlib.sha256(repr(parts).encode("utf-8", "replace")).digest()
    return random.Random(int.from_bytes(digest, "big"))


def prose(chance: random.Random, length_tokens: int) -> str:
    """Return sentences of *length_tokens* in all; a shorter text is the beginning of a longer one."""
    words: list[str] = []
    while len(words) < length_tokens:
        sentence = chance.choices(_WORDS, k=chance.randint(5, 11))
        words += [sentence[0].capitalize(), *sentence[1:-1], sentence[-1] + "."]
    return " ".join(words[:length_tokens])


def logprob(token: str, position: int, rank: int = 0) -> float:
    """Return a plausible log probability of *token*: under -2.3 for any but the likeliest (*rank* 0)."""
    share = zlib.crc32(f"{position} {token}".encode("utf-8", "replace")) % 1000 / 1000
    return round(-0.5 * share if rank == 0 else -2.3 * rank - share, 4)


def alternatives(token: str, position: int, count: int) -> list[tuple[str, float]]:
    """Return the *count* likeliest tokens at *position* with their log probabilities, *token* first."""
    others = [f" {word}" for word in dice(token, position).sample(_WORDS, count)] if count else []
    ranked = [token, *(other for other in others if other != token)][:count]
    return [(each, logprob(each if rank else token, position, rank)) for rank, each in enumerate(ranked)]


def vector(text: str, model: str, dimensions: int) -> list[float]:
    """Return a vector of length one that is a function of *text* and *model*."""
    chance = dice("embedding", model, text)
    values = [chance.gauss(0.0, 1.0) for _ in range(dimensions)]
    length = math.sqrt(math.fsum(value * value for value in values))
    return [value / length for value in values]


def render(messages: Iterable[Message], tools: Iterable[Tool] = ()) -> str:
    """Return the prompt that *messages* and *tools* make; images leave no text."""
    lines = [f"<|tools|>{json.encode(list(tools)).decode()}\n"] if tools else []
    for message in messages:
        calls = "".join(f"{call.function.name}({call.function.arguments})" for call in message.tool_calls or ())
        lines.append(f"<|{message.role}|>{text_of(message)}{calls}\n")
    return "".join(lines) + "<|assistant|>"


def text_of(message: Message) -> str:
    """Return the text of *message*, its parts one after the other."""
    if isinstance(message.content, list):
        return "\n".join(part.text for part in message.content if part.text is not None)
    return message.content or ""


def image_count(messages: Iterable[Message]) -> int:
    """Return how many images *messages* have."""
    parts = (part for message in messages if isinstance(message.content, list) for part in message.content)
    return sum(part.type == "image_url" for part in parts)


def cut_at_stop(tokens: list[str], stops: Iterable[str]) -> tuple[list[str], int, str | None]:
    """Return *tokens* before the first of *stops*, how many were generated to see it, and which one was met.

    The stop that is complete first wins, as where tokens come one by one; it may span tokens.
    """
    text = "".join(tokens)
    met = [(at + len(stop), at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not met:
        return tokens, len(tokens), None
    end, start, stop = min(met)
    kept: list[str] = []
    at = generated = 0
    for token in tokens:
        if at < start:
            kept.append(token[: start - at])
        at += len(token)
        generated += 1
        if at >= end:
            break
    return kept, generated, stop


def words_of(text: str) -> frozenset[str]:
    """Return the different words of *text*, in lower case."""
    return frozenset(_WORD.findall(text.lower()))


def prompt_of_ids(ids: Iterable[int]) -> str:
    """Return the text that stands for a prompt of token ids."""
    return " ".join(f"<{each}>" for each in ids)


def check_ids(ids: list[Any], param: str) -> list[int]:
    """Return *ids* if each is a token id. Raises BadRequest."""
    if any(isinstance(each, bool) or not isinstance(each, int) or each < 0 for each in ids):
        raise BadRequest(f"{param}: expected token ids, or strings, and not both", param=param)
    return ids
