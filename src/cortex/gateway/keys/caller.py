"""A key at work: what it may use, what it has used, and what is set aside for its requests under way.

A `Caller` lives as long as its key is in the file; an `Admission` is one request of it. All of it is in memory and
synchronous; `now` is in seconds, and does not run backwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from math import ceil, inf
from typing import NamedTuple

from cortex.core.errors import BudgetExceeded, PermissionDenied, RateLimited
from cortex.gateway.keys.check import model_filter, permits, reservation
from cortex.gateway.keys.entry import KeyEntry, Scope
from cortex.gateway.keys.ledger import Ledger, Use
from cortex.gateway.keys.rates import Allowance, Quota, budget, per_minute
from cortex.wire.engine_api import Usage

CONCURRENCY_RETRY_SECONDS = 2


class Standing(NamedTuple):
    """Where a caller's limits stand; None where there is none. `tokens` is the limit with the least left."""

    requests: Quota | None = None
    tokens: Quota | None = None


class Caller:
    """Who a request comes from. `name` is the key's, and is safe for logs and as a metrics label."""

    __slots__ = (
        "_budget",
        "_concurrency",
        "_ledger",
        "_models",
        "_requests",
        "_tokens",
        "digest",
        "expires_at",
        "id",
        "in_flight",
        "name",
        "scope",
    )

    def __init__(self, name: str, scope: Scope, *, digest: bytes = b"", ledger: Ledger | None = None) -> None:
        self.name, self.scope, self.digest, self.id = name, scope, digest, ""
        self.expires_at = inf
        self.in_flight = 0
        self._ledger = ledger
        self._models: re.Pattern[str] | None = None
        self._concurrency: int | None = None
        self._requests: Allowance | None = None
        self._tokens: Allowance | None = None
        self._budget: Allowance | None = None

    def limit(self, entry: KeyEntry, history: Iterable[Use]) -> None:
        """Put the limits of *entry* in force; what is counted already still counts.

        A budget over a window that was not kept so far begins with the key's *history*.
        """
        self.name, self.scope, self.id = entry.name, entry.scope, entry.id
        self.expires_at = entry.expires.timestamp() if entry.expires is not None else inf
        self._models = model_filter(entry.models)
        self._concurrency = entry.concurrency
        self._requests = _per_minute(self._requests, entry.requests_per_minute)
        self._tokens = _per_minute(self._tokens, entry.tokens_per_minute)
        self._budget = _budget(self._budget, entry.budget_tokens, entry.budget_window_seconds, history)

    def require(self, scope: Scope) -> None:
        """Raise PermissionDenied unless the caller may do what *scope* is for."""
        if not permits(self.scope, scope):
            raise PermissionDenied(f"the key {self.name!r} is for {self.scope}; this wants a key of scope {scope}")

    def allows(self, names: Iterable[str]) -> bool:
        """Whether the caller may use the model that has all of *names*: its id, and its aliases."""
        models = self._models
        if models is None:
            return True
        for name in names:  # noqa: SIM110 -- on every request's path, and half the cost of any()
            if models.match(name) is not None:
                return True
        return False

    def require_model(self, names: Sequence[str]) -> None:
        """Raise PermissionDenied unless the caller may use the model that it calls by the first of *names*.

        Whether there is such a model is not told: this comes before the catalogue is asked. It is not a 404, which some
        clients try again at once, in another form.
        """
        if not self.allows(names):
            message = f"the key {self.name!r} may not use the model '{names[0][:200]}'; GET /v1/models lists its own"
            raise PermissionDenied(message, param="model", code="model_not_allowed")

    def admit(self, names: Sequence[str], prompt_tokens: int, max_tokens: int | None, now: float) -> Admission:
        """Set aside what a request may use, and return it to be settled. A request that is refused uses nothing.

        *names* are what the client calls the model, then its id and aliases if it has any; *prompt_tokens* is an
        estimate, *max_tokens* what the client asks for. Raises PermissionDenied, RateLimited or BudgetExceeded.
        """
        if self._models is not None:
            self.require_model(names)
        if self._concurrency is not None and self.in_flight >= self._concurrency:
            raise RateLimited(
                f"the key {self.name!r} has {self.in_flight} requests under way, and may have {self._concurrency}",
                retry_after_seconds=CONCURRENCY_RETRY_SECONDS,
            )
        wanted = reservation(prompt_tokens, max_tokens)
        requests, tokens, tokens_budget = self._requests, self._tokens, self._budget
        for_tokens = for_budget = 0
        if requests is not None and (seconds := requests.wait(1, now)):
            raise _too_many(self.name, f"{requests.limit} requests", seconds)
        if tokens is not None:
            for_tokens = tokens.share(wanted)
            if seconds := tokens.wait(for_tokens, now):
                raise _too_many(self.name, f"{tokens.limit} tokens", seconds)
        if tokens_budget is not None:
            for_budget = tokens_budget.share(wanted)
            if seconds := tokens_budget.wait(for_budget, now):
                raise _spent(self.name, tokens_budget, seconds, now)
            tokens_budget.reserve(for_budget)
        if tokens is not None:
            tokens.reserve(for_tokens)
        if requests is not None:
            requests.settle(0, 1, now)
        self.in_flight += 1
        return Admission(self, prompt_tokens, tokens, for_tokens, tokens_budget, for_budget)

    def standing(self, now: float) -> Standing:
        """Return where the limits stand, for the headers of an answer."""
        requests = self._requests.quota(now) if self._requests is not None else None
        tokens = self._tokens.quota(now) if self._tokens is not None else None
        if self._budget is not None:
            left = self._budget.quota(now)
            if tokens is None or left.remaining < tokens.remaining:
                tokens = left
        return Standing(requests, tokens)

    def _settle(self, ended: Admission, prompt: int, completion: int, now: float) -> None:
        """Give back what was set aside, by now perhaps under limits that are no longer in force, and book the use."""
        self.in_flight -= 1
        used = prompt + completion
        tokens, tokens_budget = self._tokens, self._budget
        if tokens is not None:
            tokens.settle(ended.for_tokens if tokens is ended.tokens else 0, used, now)
        if tokens_budget is not None:
            tokens_budget.settle(ended.for_budget if tokens_budget is ended.budget else 0, used, now)
        if self._ledger is not None and used:
            self._ledger.record(self.id, prompt, completion, now)


class Admission:
    """One request that was let in. It is settled or released once; what is called after that changes nothing.

    `for_tokens` and `for_budget` is what was set aside for it of `tokens` and `budget`, the limits of that moment.
    """

    __slots__ = ("_caller", "_prompt_tokens", "budget", "for_budget", "for_tokens", "tokens")

    def __init__(
        self,
        caller: Caller,
        prompt_tokens: int,
        tokens: Allowance | None,
        for_tokens: int,
        tokens_budget: Allowance | None,
        for_budget: int,
    ) -> None:
        self._caller: Caller | None = caller
        self._prompt_tokens = prompt_tokens
        self.tokens, self.for_tokens = tokens, for_tokens
        self.budget, self.for_budget = tokens_budget, for_budget

    def settle(self, usage: Usage | None, now: float, *, generated_tokens: int = 0) -> None:
        """Pay for the request: the exact *usage*, or what is known of one that ended without it.

        That is the estimate of its prompt and what was generated so far, so that nobody saves by hanging up.
        """
        if usage is None:
            self._close(max(1, self._prompt_tokens), max(0, generated_tokens), now)
        else:
            self._close(max(0, usage.prompt_tokens), max(0, usage.completion_tokens), now)

    def release(self, now: float) -> None:
        """End a request that no replica began to serve: it costs no tokens."""
        self._close(0, 0, now)

    def _close(self, prompt: int, completion: int, now: float) -> None:
        caller, self._caller = self._caller, None
        if caller is not None:
            caller._settle(self, prompt, completion, now)


def _per_minute(current: Allowance | None, limit: int | None) -> Allowance | None:
    if limit is None:
        return None
    if current is None:
        return per_minute(limit)
    current.limit = limit
    return current


def _budget(current: Allowance | None, limit: int | None, seconds: float, history: Iterable[Use]) -> Allowance | None:
    if limit is None:
        return None
    if current is not None and current.seconds == seconds:
        current.limit = limit
        return current
    fresh = budget(limit, seconds)
    for use in history:
        fresh.settle(0, use.tokens, use.minute)
    return fresh


def _too_many(name: str, limit: str, seconds: float) -> RateLimited:
    wait = max(1, ceil(seconds))
    return RateLimited(
        f"the key {name!r} may use {limit} a minute; try again in {wait} s", retry_after_seconds=min(wait, 60)
    )


def _spent(name: str, spent: Allowance, seconds: float, now: float) -> BudgetExceeded:
    left, hours = spent.quota(now).remaining, spent.seconds / 3600
    when = datetime.fromtimestamp(ceil(now + seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return BudgetExceeded(
        f"the key {name!r} has {left} of its {spent.limit} tokens in {hours:g} h left, too few for this request; "
        f"there is room for it at {when}",
        renews_in_seconds=seconds,
    )
