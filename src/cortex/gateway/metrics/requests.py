"""Count requests that have ended, and what was decided."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from prometheus_client.core import Metric

from cortex.core.metrics import Counts, Distributions, Labels
from cortex.fleet.work import Event
from cortex.gateway.metrics import families as of
from cortex.gateway.trace.record import Record
from cortex.wire.engine_api import Usage
from cortex.wire.sse import Trailer

MAX_KEYS = 200
OTHER_KEYS, NO_NODE, UNKNOWN_MODEL = "other", "-", "unknown"


class Sums:
    """Owns every counter and histogram of the gateway."""

    def __init__(self) -> None:
        self._counts = {family: Counts(family) for family in of.FAMILIES if family.kind == "counter"}
        self._histograms = {family: Distributions(family) for family in of.FAMILIES if family.kind == "histogram"}
        self._keys: set[str] = set()
        self._means: dict[str, tuple[int, int]] = {}

    def count(self, records: Sequence[Record]) -> None:
        """Count *records*."""
        for record in records:
            self._ended(record)

    def collect(self) -> Iterable[Metric]:
        """Return all families, those without a series too."""
        return [sums.collect() for sums in self._all()]

    def _all(self) -> list[Counts | Distributions]:
        return [*self._counts.values(), *self._histograms.values()]

    def keep(self, nodes: Collection[str], models: Callable[[str], bool]) -> None:
        """Let go of the series about other *nodes* and about what are no *models* any more."""
        for sums in self._all():
            labels = sums.family.labels
            if "model" in labels:
                sums.keep(_wanted(labels, nodes, models))
        self._means = {model: mean for model, mean in self._means.items() if models(model)}

    def keep_keys(self, names: Collection[str]) -> None:
        """Let go of the series about other keys than those called *names*."""
        self._keys &= set(names)
        for family in (of.KEY_REQUESTS, of.KEY_REFUSALS, of.KEY_TOKENS):
            self._counts[family].keep(lambda labels: labels[0] in self._keys or labels[0] == OTHER_KEYS)

    # requests ---------------------------------------------------------------------------------------------------------

    def _ended(self, record: Record) -> None:
        where = record.label, record.node
        self._counts[of.REQUESTS].add(where)
        self._histograms[of.DURATION].of(where).observe(record.seconds)
        if record.asked_at:
            self._histograms[of.QUEUE_WAIT].of(where).observe(record.wait_seconds)
        if record.code is not None:
            self._failed(record, where)
        elif record.left:
            self._left(record, where)
        elif record.trailer is not None:
            self._served(record, record.trailer, where)
        if record.failures:
            self._retried(record)
        if record.key is not None and record.let_in is not None:
            self._paid(self._key(record.key), record)

    def _failed(self, record: Record, where: Labels) -> None:
        code = record.code or ""
        self._counts[of.ERRORS].add((*where, code))
        if record.node == NO_NODE:
            self._counts[of.REJECTIONS].add((NO_NODE, record.label, code))

    def _left(self, record: Record, where: Labels) -> None:
        self._counts[of.LEFT].add(where)
        if record.sent_at:
            self._counts[of.SAVED].add(where, self._saved(record))

    def _saved(self, record: Record) -> float:
        """Return how many more tokens the answer would have had, going by the mean of the model's answers."""
        count, total = self._means.get(record.label, (0, 0))
        expected = total / count if count else 0.0
        if record.limit is not None:
            expected = min(expected, record.limit)
        return max(0.0, expected - record.events)

    def _served(self, record: Record, trailer: Trailer, where: Labels) -> None:
        usage, first, gap = trailer.usage, record.first_token_seconds, record.gap_seconds
        self._counts[of.PROMPT].add(where, usage.prompt_tokens)
        self._counts[of.COMPLETION].add(where, usage.completion_tokens)
        self._counts[of.CACHED].add(where, usage.cached_tokens)
        if first is not None:
            self._histograms[of.TTFT].of(where).observe(first)
        if gap is not None:
            self._histograms[of.GAP].of(where).observe(gap)
            speed = usage.completion_tokens / trailer.timings.decode_ms * 1000
            self._histograms[of.SPEED].of(where).observe(speed)
        count, total = self._means.get(record.label, (0, 0))
        self._means[record.label] = count + 1, total + usage.completion_tokens

    def _retried(self, record: Record) -> None:
        failed = [attempt.node for attempt in record.failures or ()]
        for attempt in record.failures or ():
            self._counts[of.RETRIES].add((record.label, attempt.node))
            if attempt.said:
                self._counts[of.CONTINUATIONS].add((record.label, attempt.node))
        if record.code is None and record.trailer is not None and failed[-1] != record.node:
            self._counts[of.FAILOVERS].add((record.label, failed[-1]))

    # keys -------------------------------------------------------------------------------------------------------------

    def _paid(self, key: str, record: Record) -> None:
        if not record.let_in:
            self._counts[of.KEY_REFUSALS].add((key, record.code or ""))
            return
        self._counts[of.KEY_REQUESTS].add((key,))
        if record.paid is not None:
            self._tokens(key, record.paid)

    def _tokens(self, key: str, paid: Usage) -> None:
        self._counts[of.KEY_TOKENS].add((key, "prompt"), paid.prompt_tokens)
        self._counts[of.KEY_TOKENS].add((key, "completion"), paid.completion_tokens)

    def _key(self, name: str) -> str:
        """Return *name* as a label: there is a bound to how many keys have series of their own."""
        if name not in self._keys:
            if len(self._keys) >= MAX_KEYS:
                return OTHER_KEYS
            self._keys.add(name)
        return name

    # decisions --------------------------------------------------------------------------------------------------------

    def decided(self, event: Event) -> None:
        """Count what became of a model on a node."""
        where = event.model, event.node
        match event.kind:
            case "load_started":
                self._counts[of.COLD_STARTS].add(where)
            case "load_finished":
                self._histograms[of.LOAD_SECONDS].of(where).observe(event.details["seconds"])
            case "load_failed":
                self._counts[of.LOAD_FAILURES].add((*where, event.details["code"] or "unknown"))
            case "evicted" | "unloaded":
                self._counts[of.EVICTIONS].add((*where, event.details["cause"]))

    def dropped(self, count: int) -> None:
        """Say that *count* records were lost in all."""
        self._counts[of.TRACES_DROPPED].put((), count)


def _wanted(labels: Labels, nodes: Collection[str], models: Callable[[str], bool]) -> Callable[[Labels], bool]:
    model, node = labels.index("model"), labels.index("node")

    def wanted(values: Labels) -> bool:
        return (values[node] == NO_NODE or values[node] in nodes) and models(values[model])

    return wanted
