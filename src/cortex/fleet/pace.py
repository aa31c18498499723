"""How fast a replica is, and what a model is usually asked: learned from what each answer cost."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum

import msgspec
from msgspec.structs import replace

from cortex.wire.engine_api import Timings, Usage

# A sample counts in full from these many tokens on, and not at all below an eighth of them: of a short prompt or a
# short answer, the time says more about what a request costs at all than about a token.
FULL_PREFILL_TOKENS, FULL_DECODE_TOKENS = 64, 16
LONGEST_MEMORY = 16.0
SHAPE_MEMORY = 64
SLOWEST, FASTEST = 0.01, 1e7
# Where nothing was measured: a prompt is read about so many times as fast as an answer is written.
PREFILL_TO_DECODE = 10.0


class Pace(msgspec.Struct, frozen=True, gc=False):
    """What a replica does with a request of its own: tokens of the prompt and of the answer, each a second.

    `prefill_samples` and `decode_samples` say on how many full samples either rests, at most `LONGEST_MEMORY`; with 0
    it is a guess from the other one. `samples` counts all requests that taught something.
    """

    prefill: float
    decode: float
    samples: int = 1
    prefill_samples: float = 1.0
    decode_samples: float = 1.0


class Shape(msgspec.Struct, frozen=True, gc=False):
    """A typical request to a model, in tokens; of the prompt, those that are cached count too."""

    prompt_tokens: float = 1000.0
    completion_tokens: float = 200.0
    samples: int = 0


UNLEARNED = Pace(500.0, 50.0, 0, 0.0, 0.0)


def learn(pace: Pace | None, usage: Usage, timings: Timings) -> Pace:
    """Return *pace* with one finished request taken in; `UNLEARNED` while nothing could be told from any.

    Rates move by a moving geometric mean: fast at first, by a sixteenth later, and no single hiccup carries one away.
    Only tokens that were computed count: what came from a cache says nothing of speed.
    """
    known = pace or UNLEARNED
    cached, cached_there = usage.cached_tokens, timings.cached_tokens
    fresh = usage.prompt_tokens - (cached if cached > cached_there else cached_there)
    prefill = _moved(known.prefill, known.prefill_samples, fresh, timings.prefill_ms, FULL_PREFILL_TOKENS)
    decode = _moved(known.decode, known.decode_samples, usage.completion_tokens, timings.decode_ms, FULL_DECODE_TOKENS)
    if prefill is None and decode is None:
        return known
    reads, reads_seen = prefill or (known.prefill, known.prefill_samples)
    writes, writes_seen = decode or (known.decode, known.decode_samples)
    return _completed(Pace(reads, writes, known.samples + 1, reads_seen, writes_seen))


def _moved(rate: float, samples: float, tokens: int, milliseconds: float, full: int) -> tuple[float, float] | None:
    """Return the rate and its samples after *tokens* in *milliseconds*; None if those teach nothing."""
    if tokens * 8 < full or not 0.0 < milliseconds < float("inf"):
        return None
    weight = tokens / full if tokens < full else 1.0
    seen = min(max(tokens * 1000.0 / milliseconds, SLOWEST), FASTEST)
    after = samples + weight if samples + weight < LONGEST_MEMORY else LONGEST_MEMORY
    return rate * (seen / rate) ** (weight / after), after


def _completed(pace: Pace) -> Pace:
    """Return *pace* with a guess for the half that was never measured."""
    if pace.prefill_samples == 0.0:
        return replace(pace, prefill=pace.decode * PREFILL_TO_DECODE)
    if pace.decode_samples == 0.0:
        return replace(pace, decode=pace.prefill / PREFILL_TO_DECODE)
    return pace


def learn_shape(shape: Shape | None, usage: Usage) -> Shape:
    """Return *shape* with one finished request taken in: a moving mean of its tokens."""
    known = shape or Shape()
    if usage.prompt_tokens <= 0:
        return known
    samples = min(known.samples + 1, SHAPE_MEMORY)
    return Shape(
        known.prompt_tokens + (usage.prompt_tokens - known.prompt_tokens) / samples,
        known.completion_tokens + (max(0, usage.completion_tokens) - known.completion_tokens) / samples,
        samples,
    )


def mean_pace(paces: Iterable[Pace]) -> Pace:
    """Return the mean of those *paces* that were learned, whatever their order; `UNLEARNED` if none was."""
    learned = [pace for pace in paces if pace.samples]
    if not learned:
        return UNLEARNED
    count = len(learned)
    prefill, decode = fsum([pace.prefill for pace in learned]), fsum([pace.decode for pace in learned])
    return replace(UNLEARNED, prefill=prefill / count, decode=decode / count)


def service_seconds(pace: Pace, shape: Shape, cached_fraction: float = 0.0) -> float:
    """Return how long a request of *shape* takes on a replica of *pace* that has *cached_fraction* of the prompt."""
    return shape.prompt_tokens * (1.0 - cached_fraction) / pace.prefill + shape.completion_tokens / pace.decode
