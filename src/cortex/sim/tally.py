"""Owns the counts of a simulation: what became of each request, what was loaded, how busy and full the nodes were."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

from cortex.core.errors import CortexError
from cortex.core.quantities import bytes_of
from cortex.fleet.work import Event
from cortex.sim.description import Fleet, Machine
from cortex.sim.report import Curve, ModelReport, NodeReport, Report, spread_of
from cortex.sim.trace import Arrival
from cortex.sim.visit import Visit


def _seconds() -> array[float]:
    return array("d")


@dataclass(slots=True)
class _Model:
    requests: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    cold_starts: int = 0
    loads: int = 0
    evictions: int = 0
    completion_tokens: int = 0
    queue: array[float] = field(default_factory=_seconds)
    ttft: array[float] = field(default_factory=_seconds)


@dataclass(slots=True)
class _Node:
    """`busy_seconds` and `byte_seconds` are summed up to `since`, from when on it stands as it does."""

    total_bytes: int
    requests: int = 0
    loads: int = 0
    evictions: int = 0
    completion_tokens: int = 0
    is_busy: bool = False
    held_bytes: int = 0
    since: float = 0.0
    busy_seconds: float = 0.0
    byte_seconds: float = 0.0

    def stand(self, is_busy: bool, held_bytes: int, now: float) -> None:
        """Sum up to *now*, and go on like this."""
        if self.is_busy:
            self.busy_seconds += now - self.since
        self.byte_seconds += self.held_bytes * (now - self.since)
        self.is_busy, self.held_bytes, self.since = is_busy, held_bytes, now


class Tally:
    """Counts for one run of *fleet* under the policy called *policy*; all times in virtual seconds."""

    def __init__(self, fleet: Fleet, policy: str) -> None:
        self.settled = 0
        self._fleet, self._policy = fleet.name, policy
        self._models: dict[str, _Model] = {}
        self._nodes = {machine.name: _Node(_memory_of(machine)) for machine in fleet.machines}
        self._aliases = fleet.aliases
        self._arrived, self._ttft = _seconds(), _seconds()
        self._cold, self._total = _seconds(), _seconds()
        self._failed_loads: Counter[str] = Counter()
        self._retries = self._swaps = self._unloads = self._prompt_tokens = self._cached_tokens = 0

    def arrived(self, arrival: Arrival) -> None:
        """Count a request that comes."""
        self._model(self._aliases.get(arrival.model, arrival.model)).requests += 1

    def settle(self, visit: Visit, error: CortexError | None, now: float) -> None:
        """Count what became of *visit*."""
        self.settled += 1
        self._retries += visit.retries
        model = self._model(visit.model)
        model.cold_starts += visit.cold
        if visit.outcome == "broken":
            model.broken += 1
        elif error is not None:
            model.refused[error.code or type(error).__name__] += 1
        else:
            self._answer(visit, model, now)

    def _answer(self, visit: Visit, model: _Model, now: float) -> None:
        arrival = visit.arrival
        assert visit.spot is not None, "an answer has a place"
        assert visit.served_at is not None, "an answer was begun"
        assert visit.first_token_at is not None, "an answer has a first token"
        ttft, queued = visit.first_token_at - arrival.at, visit.served_at - arrival.at
        model.queue.append(queued)
        model.ttft.append(ttft)
        self._arrived.append(arrival.at)
        self._ttft.append(ttft)
        self._total.append(now - arrival.at)
        if visit.cold:
            self._cold.append(queued)
        node = self._nodes[visit.spot[0]]
        node.requests += 1
        node.completion_tokens += arrival.completion_tokens
        model.completion_tokens += arrival.completion_tokens
        self._prompt_tokens += arrival.prompt_tokens
        self._cached_tokens += visit.cached_tokens

    def note(self, event: Event) -> None:
        """Count what was decided, or came of it."""
        match event.kind:
            case "planned":
                self._swaps += bool(event.details["plan"]["evicts"])
            case "evicted":
                self._model(event.model).evictions += 1
                self._nodes[event.node].evictions += 1
            case "unloaded":
                self._unloads += 1
            case "load_finished":
                self._model(event.model).loads += 1
                self._nodes[event.node].loads += 1
            case "load_failed":
                self._failed_loads[event.details["code"] or "unknown"] += 1

    def stands(self, node: str, busy: int, held_bytes: int, now: float) -> None:
        """Take note of how many requests *node* has from *now* on, and how many bytes its replicas hold."""
        self._nodes[node].stand(busy > 0, held_bytes, now)

    def report(self, now: float, steps: int, *, complete: bool) -> Report:
        """Return what was counted up to *now*."""
        nodes = [_node_report(name, node, now) for name, node in self._nodes.items()]
        models = [_model_report(name, model) for name, model in sorted(self._models.items())]
        refused: Counter[str] = sum((model.refused for model in self._models.values()), Counter())
        completion_tokens = sum(model.completion_tokens for model in models)
        total_bytes = sum(node.total_bytes for node in self._nodes.values())
        return Report(
            fleet=self._fleet,
            policy=self._policy,
            complete=complete,
            seconds=round(now, 6),
            steps=steps,
            requests=sum(model.requests for model in models),
            answered=len(self._ttft),
            refused=dict(sorted(refused.items())),
            broken=sum(model.broken for model in models),
            retries=self._retries,
            cold_starts=sum(model.cold_starts for model in models),
            loads=sum(model.loads for model in models),
            failed_loads=dict(sorted(self._failed_loads.items())),
            swaps=self._swaps,
            evictions=sum(model.evictions for model in models),
            unloads=self._unloads,
            queue_seconds=spread_of([value for model in self._models.values() for value in model.queue]),
            cold_start_seconds=spread_of(self._cold),
            ttft_seconds=spread_of(self._ttft),
            total_seconds=spread_of(self._total),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            completion_tokens=completion_tokens,
            tokens_per_second=round(completion_tokens / now, 3) if now else 0.0,
            busy=_fraction(sum(node.busy for node in nodes), len(nodes)),
            memory=_fraction(sum(n.memory * self._nodes[n.node].total_bytes for n in nodes), total_bytes),
            models=models,
            nodes=nodes,
        )

    def curve(self) -> Curve:
        """Return the wait for the first token over time."""
        return Curve(f"{self._fleet}, {self._policy}", self._arrived, self._ttft)

    def _model(self, model: str) -> _Model:
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = _Model()
        return known


def _model_report(name: str, model: _Model) -> ModelReport:
    return ModelReport(
        model=name,
        requests=model.requests,
        answered=len(model.ttft),
        refused=dict(sorted(model.refused.items())),
        broken=model.broken,
        cold_starts=model.cold_starts,
        loads=model.loads,
        evictions=model.evictions,
        queue_seconds=spread_of(model.queue),
        ttft_seconds=spread_of(model.ttft),
        completion_tokens=model.completion_tokens,
    )


def _node_report(name: str, node: _Node, now: float) -> NodeReport:
    node.stand(node.is_busy, node.held_bytes, now)
    return NodeReport(
        node=name,
        requests=node.requests,
        loads=node.loads,
        evictions=node.evictions,
        busy=_fraction(node.busy_seconds, now),
        memory=_fraction(node.byte_seconds, node.total_bytes * now),
        completion_tokens=node.completion_tokens,
    )


def _fraction(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0


def _memory_of(machine: Machine) -> int:
    return sum(bytes_of(device.memory) * device.count for device in machine.devices)
