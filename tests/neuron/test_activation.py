from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import anyio
import pytest
from structlog.testing import capture_logs

from cortex.core.errors import CortexError, InsufficientMemory, LoadFailed, ShuttingDown
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Wish
from cortex.neuron import activation as subject
from cortex.neuron.activation import Preload
from cortex.neuron.models import Models
from cortex.wire.node_api import Activation, FailedModel

NO_ROOM = InsufficientMemory("no room")
BROKEN = LoadFailed("not a model")
LATE = LoadFailed("the hub does not answer", should_retry=True)


class FakeModels:
    """Loads as a script says: each model's outcomes in turn, the last one for ever; None is a success."""

    def __init__(self, outcomes: dict[str, Sequence[CortexError | None]]) -> None:
        self._outcomes = {model: list(each) for model, each in outcomes.items()}
        self.loads: list[tuple[str, Wish]] = []
        self.watch: Callable[[str], None] = lambda _: None

    async def load(self, spec: ModelSpec, wish: Wish) -> None:
        self.loads.append((spec.id, wish))
        self.watch(spec.id)
        outcomes = self._outcomes.get(spec.id, [None])
        error = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if error is not None:
            raise error


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "RETRY_SECONDS", (0, 0, 0))


def preload(models: FakeModels, *names: str) -> Preload:
    return Preload(cast(Models, models), [ModelSpec(id=name) for name in names])


def run(models: FakeModels, *names: str) -> Activation:
    task = preload(models, *names)
    anyio.run(task.run)
    return task.state


def loads(models: FakeModels) -> str:
    return " ".join(model for model, _ in models.loads)


def test_nothing_to_load_is_ready_at_once() -> None:
    assert preload(FakeModels({})).state == Activation(state="ready")


def test_models_are_loaded_one_after_the_other_in_their_order() -> None:
    models, told = FakeModels({}), []
    task = preload(models, "a", "b", "c")
    before = task.state.state, list(task.state.pending)

    def watch(_: str) -> None:
        told.append((task.state.in_progress, list(task.state.pending), list(task.state.completed)))

    models.watch = watch
    anyio.run(task.run)

    assert before == ("pre_warming", ["a", "b", "c"])
    assert told == [("a", ["b", "c"], []), ("b", ["c"], ["a"]), ("c", [], ["a", "b"])]
    assert task.state == Activation(state="ready", completed=["a", "b", "c"])


def test_a_model_that_fails_does_not_stop_the_others() -> None:
    models = FakeModels({"a": [BROKEN]})

    state = run(models, "a", "b")

    assert (state.state, state.completed, state.failed) == ("ready", ["b"], [FailedModel("a", "not a model")])
    assert loads(models) == "a b"


def test_the_devices_of_a_spec_are_wished_for() -> None:
    models = FakeModels({})
    anyio.run(Preload(cast(Models, models), [ModelSpec(id="a", devices=2), ModelSpec(id="b", min_devices=3)]).run)

    assert models.loads == [("a", 2), ("b", 3)]


RETRIES = {
    "what came up": ([None], "m"),
    "what a repeat cannot mend": ([BROKEN], "m"),
    "no room for ever": ([NO_ROOM], "m m m m"),
    "a network that comes up": ([LATE, LATE, None], "m m m"),
    "what turns out to be broken": ([NO_ROOM, BROKEN], "m m"),
    "what somebody unloaded": ([ShuttingDown("m was unloaded while it was loading")], "m"),
}


@pytest.mark.parametrize(("outcomes", "tried"), RETRIES.values(), ids=RETRIES.keys())
def test_only_what_time_may_mend_is_tried_again(outcomes: list[CortexError | None], tried: str) -> None:
    models = FakeModels({"m": outcomes})

    state = run(models, "m")

    assert loads(models) == tried
    assert state.completed == (["m"] if outcomes[-1] is None else [])
    assert state.failed == ([FailedModel("m", str(outcomes[-1]))] if outcomes[-1] is not None else [])
    assert (state.state, state.pending, state.in_progress) == ("ready", [], None)


def test_a_retry_is_announced_with_the_models_it_is_for() -> None:
    with capture_logs() as logs:
        run(FakeModels({"a": [NO_ROOM, None], "b": [BROKEN]}), "a", "b", "c")

    assert [line["models"] for line in logs if line["event"] == "preload_retry"] == [["a"]]


def test_a_node_on_its_way_out_preloads_nothing_more() -> None:
    models = FakeModels({})
    task = preload(models, "a", "b")

    def watch(_: str) -> None:
        task.state.state = "draining"

    models.watch = watch
    anyio.run(task.run)

    assert loads(models) == "a"
    assert task.state.state == "draining"
