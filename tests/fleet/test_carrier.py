from __future__ import annotations

from typing import Any

import pytest

from cortex.core.errors import CortexError, InsufficientMemory, ModelNotFound, ModelNotReady, NoHealthyNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.carrier import CONFIRM_SECONDS, SETTLE_SECONDS, Carrier
from cortex.fleet.devices import Room
from cortex.fleet.doors import Ticket
from cortex.fleet.fit import FLOOR_BYTES
from cortex.fleet.learned import Learned
from cortex.fleet.plan import Plan
from cortex.fleet.presence import Presence
from cortex.fleet.route import Choice
from cortex.fleet.view import NodeView, ReplicaView, Spot
from cortex.fleet.work import Event, Job, Work

GIB = 1 << 30
SPEC = ModelSpec(id="m")
OLD = ("a", "old")


class Orders:
    """Effects that only remember what they were told to do."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def serve(self, ticket: Ticket, choice: Choice) -> None:
        self.given.append(f"serve {ticket.model}")

    def refuse(self, ticket: Ticket, error: CortexError) -> None:
        self.given.append(f"refuse {ticket.model}")

    def load(self, spec: ModelSpec, plan: Plan) -> None:
        self.given.append(f"load {spec.id}")

    def unload(self, spot: Spot) -> None:
        self.given.append(f"unload {spot[1]}")

    def look(self, node: str) -> None:
        self.given.append(f"look at {node}")

    def estimate(self, spec: ModelSpec, node: str) -> None:
        self.given.append(f"estimate {spec.id}")

    def note(self, event: Event) -> None:
        self.given.append(event.kind)


class Site:
    """A node `a`, and a carrier that is to bring `m` there, which takes 8 GiB."""

    def __init__(self, *victims: Spot) -> None:
        self.orders, self.presence, self.learned = Orders(), Presence(), Learned()
        self.carrier = Carrier(self.orders, self.presence, self.learned)
        self.see(8)
        self.job = Job("m", "request", 0.0, 100, held="it had to wait")
        self.carrier.begin(self.job, Plan("m", "a", (0,), {0: 8 * GIB}, victims=victims), 5.0)

    def see(self, free_gib: int, state: Any = None, *, at: float = 5.0, healthy: bool = True) -> None:
        rooms = (Room(0, "cuda", "gpu", free_gib * GIB + FLOOR_BYTES, 0, 24 * GIB),)
        replicas = (ReplicaView("m", "a", state),) if state is not None else ()
        node = NodeView("a", "http://a", healthy, rooms=rooms, replicas=replicas, seen_at=at)
        self.presence.show(self.presence.view.with_node(node), "a")

    @property
    def work(self) -> Work:
        assert self.job.work is not None
        return self.job.work

    def told(self) -> list[str]:
        """Return the orders since the last time."""
        given, self.orders.given = self.orders.given, []
        return given


def test_a_plan_goes_from_the_victims_to_the_replica_that_is_seen() -> None:
    site = Site(OLD)
    assert site.told() == ["planned", "evicted", "unload old"]
    assert site.carrier.step(site.work, SPEC, 6.0) is None
    assert site.presence.leaving == {OLD: None}

    site.carrier.unloaded(OLD, None, 7.0)
    assert site.told() == ["look at a"]
    site.see(8, at=8.0)
    assert site.carrier.step(site.work, SPEC, 8.0) is None
    assert site.told() == ["load_started", "load m"]
    assert site.carrier.loaded(("a", "m"), None, 20.0) is site.work
    assert site.told() == ["load_finished", "look at a"]
    assert site.learned.load_seconds == {("a", "m"): 12.0}
    assert site.carrier.step(site.work, SPEC, 20.0) is None
    site.see(0, "ready", at=21.0)

    assert site.carrier.step(site.work, SPEC, 21.0) == "done"


def test_what_was_begun_is_noted_with_what_held_it() -> None:
    site = Site()
    (event,) = site.carrier.events

    assert (event.kind, event.model, event.node) == ("planned", "m", "a")
    assert (event.details["cause"], event.details["held"], event.details["held_seconds"]) == (
        "request",
        "it had to wait",
        5.0,
    )
    assert site.job.held == ""


def test_work_counts_on_its_bytes_until_it_is_closed() -> None:
    site = Site()
    ((claim,),) = site.carrier.commitments().values()
    assert (claim.model, claim.bytes_by_device) == ("m", {0: 8 * GIB})
    assert (list(site.carrier.nodes), site.carrier.on("a")) == (["a"], (site.work,))

    site.carrier.close(site.work)

    assert (site.carrier.commitments(), list(site.carrier.nodes), site.job.work) == ({}, [], None)


def test_nothing_is_loaded_by_a_view_from_before() -> None:
    site = Site()
    site.see(8, at=4.0)

    assert site.carrier.step(site.work, SPEC, 6.0) is None
    assert "load m" not in site.told()


def test_memory_that_is_missing_is_waited_for_only_where_victims_gave_it_and_not_for_long() -> None:
    without, after = Site(), Site(OLD)
    after.carrier.unloaded(OLD, None, 6.0)
    for site in (without, after):
        site.see(7, at=7.0)
        site.carrier.step(site.work, SPEC, 7.0)
    assert (without.job.work, after.job.work is not None) == (None, True)

    after.see(7, at=7.0 + SETTLE_SECONDS)
    after.carrier.step(after.work, SPEC, 7.0 + SETTLE_SECONDS)

    assert after.job.work is None
    assert without.told()[-1] == after.told()[-1] == "plan_dropped"


@pytest.mark.parametrize("phase", ["looking", "confirming"])
def test_a_node_that_went_away_ends_the_work(phase: Any) -> None:
    site = Site()
    site.work.phase = phase
    site.see(8, healthy=False)

    assert isinstance(site.carrier.step(site.work, SPEC, 6.0), NoHealthyNode)


def test_a_model_that_nobody_knows_any_more_is_not_loaded() -> None:
    site = Site()

    assert isinstance(site.carrier.step(site.work, None, 6.0), ModelNotFound)


@pytest.mark.parametrize(
    ("state", "at", "is_over"), [("failed", 6.0, True), (None, 6.0, False), (None, 6.0 + CONFIRM_SECONDS, True)]
)
def test_a_replica_that_fails_or_is_not_seen_soon_ends_the_work(state: Any, at: float, is_over: bool) -> None:
    site = Site()
    site.work.phase, site.work.phase_since = "confirming", 5.5
    site.see(0, state)

    assert isinstance(site.carrier.step(site.work, SPEC, at), ModelNotReady) is is_over


def test_a_load_that_fails_is_noted_and_one_that_is_not_ours_is_not() -> None:
    site = Site()
    site.carrier.step(site.work, SPEC, 6.0)
    site.told()
    error = InsufficientMemory("too little")

    assert site.carrier.loaded(("b", "m"), error, 8.0) is None
    assert site.told() == []
    assert site.carrier.loaded(("a", "m"), error, 8.0) is site.work
    assert site.told() == ["load_failed"]
    assert site.carrier.events[-1].details == {"code": "insufficient_memory", "seconds": 2.0}


def test_an_unload_that_fails_gives_the_replica_back() -> None:
    site = Site(OLD)
    site.told()

    site.carrier.unloaded(OLD, NoHealthyNode("gone"), 7.0)

    assert site.presence.leaving == {}
    assert site.told() == ["unload_failed", "look at a"]


@pytest.mark.parametrize(("phase", "stays"), [("unloading", False), ("looking", False), ("loading", True)])
def test_work_on_a_model_that_changed_is_dropped_unless_it_loads_already(phase: Any, stays: bool) -> None:
    site = Site()
    site.work.phase = phase

    site.carrier.drop_changed(["other"], 6.0)
    assert site.job.work is not None
    site.carrier.drop_changed(["m"], 6.0)

    assert (site.job.work is not None) is stays
