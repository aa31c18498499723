"""Decide the next token of each sequence from its logits. One sampler a sequence; only rank 0 has them."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from cortex.engines.transformers.grammar import Matcher

NARROW = 1024
"""The most likely tokens, which nearly always hold all of `top_p`; else the whole vocabulary is sorted."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request wants its tokens chosen. A *temperature* of 0 takes the likeliest; *top_k* 0 is no bound."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    top_logprobs: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is the answer, and nothing more is asked."""
        changes = self.repeat_penalty != 1.0 or self.presence_penalty or self.frequency_penalty or self.logit_bias
        return self.temperature == 0 and not changes and self.top_logprobs is None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token, and if they were asked for its log probability and those of the likeliest, as the model gave them."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses for one sequence; what it draws depends on its seed, its logits and its own tokens alone."""

    def __init__(self, sampling: Sampling, prompt: list[int], index: int, matcher: Matcher | None) -> None:
        self._sampling, self._matcher = sampling, matcher
        self._prompt = torch.tensor(sorted(set(prompt)), dtype=torch.long)
        self._counts: Counter[int] = Counter()
        self._generator = torch.Generator()
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._generator.manual_seed((seed + index) % 2**63)

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token of the logits is what this would choose."""
        return self._matcher is None and self._sampling.is_plain

    def choose(self, logits: Any) -> Chosen:
        """Return the next token for float32 *logits* on the CPU, a row of the vocabulary. Raises GrammarError."""
        told = self._sampling.top_logprobs
        logprobs = logits.log_softmax(-1) if told is not None else None
        token = self._draw(self._shaped(logits))
        self._counts[token] += 1
        if self._matcher is not None:
            self._matcher.accept(token)
        if logprobs is None or told is None:
            return Chosen(token)
        values, tokens = logprobs.topk(told)
        return Chosen(token, logprobs[token].item(), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))

    def _shaped(self, logits: Any) -> Any:
        """Return *logits* after penalties, biases and the grammar."""
        wanted, shaped = self._sampling, logits.clone()
        if wanted.repeat_penalty != 1.0:
            seen = torch.cat([self._prompt, torch.tensor(list(self._counts), dtype=torch.long)]).unique()
            values = shaped[seen]
            shaped[seen] = torch.where(values > 0, values / wanted.repeat_penalty, values * wanted.repeat_penalty)
        if self._counts and (wanted.presence_penalty or wanted.frequency_penalty):
            tokens = torch.tensor(list(self._counts), dtype=torch.long)
            counts = torch.tensor(list(self._counts.values()), dtype=shaped.dtype)
            shaped[tokens] -= wanted.presence_penalty + wanted.frequency_penalty * counts
        for token, bias in wanted.logit_bias.items():
            if token < len(shaped):
                shaped[token] += bias
        if self._matcher is not None:
            shaped[~self._matcher.allowed(len(shaped))] = -math.inf
        return shaped

    def _draw(self, logits: Any) -> int:
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        scaled = logits / self._sampling.temperature
        values, tokens = scaled.topk(min(self._sampling.top_k or NARROW, len(scaled)))
        total = values.logsumexp(0) if self._sampling.top_k else scaled.logsumexp(0)
        if not self._sampling.top_k and float((values - total).exp().sum()) < self._sampling.top_p:
            values, tokens = scaled.sort(descending=True)
        return int(tokens[torch.multinomial(self._trimmed((values - total).exp()), 1, generator=self._generator)])

    def _trimmed(self, probabilities: Any) -> Any:
        """Return descending *probabilities* with those that top_p, min_p and typical_p leave out as 0."""
        kept, wanted = probabilities, self._sampling
        if wanted.typical_p < 1:
            kept = kept * _typical(kept, wanted.typical_p)
        if wanted.top_p < 1:
            before = kept.cumsum(0) - kept
            kept = kept * (before < wanted.top_p * kept.sum())
        if wanted.min_p > 0:
            kept = kept * (kept >= wanted.min_p * kept.max())
        return kept if float(kept.sum()) > 0 else probabilities


def _typical(probabilities: Any, mass: float) -> Any:
    """Return which tokens are the most typical that hold *mass*: those whose surprise is nearest to the entropy.

    Source: Meister et al., "Locally Typical Sampling".
    """
    surprise = -probabilities.clamp_min(1e-20).log()
    entropy = (probabilities * surprise).sum() / probabilities.sum()
    order = (surprise - entropy).abs().argsort()
    before = probabilities[order].cumsum(0) - probabilities[order]
    kept = torch.zeros_like(probabilities, dtype=torch.bool)
    kept[order[before < mass * probabilities.sum()]] = True
    return kept
