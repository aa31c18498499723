from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.fleet.evict import (
    DRAIN_SECONDS,
    KEPT_FACTOR,
    MAX_EXPANSIONS,
    SPARE_FACTOR,
    Resident,
    Strategy,
    cheapest_victims,
    may_displace,
    rank_of,
    residents,
    tier_of,
)
from cortex.fleet.situation import Policy, Situation
from cortex.fleet.view import FleetView, NodeView, ReplicaView

NOW = 1000.0


def resident(model: str, held: Mapping[int, int], **changed: Any) -> Resident:
    return Resident(("a", model), held, **{"reload_seconds": 10.0, **changed})


def replica(model: str = "m", node: str = "a", **changed: Any) -> ReplicaView:
    return ReplicaView(model, node, **{"state": "ready", "bytes_by_device": {0: 8}, **changed})


def node(name: str, *replicas: ReplicaView) -> NodeView:
    return NodeView(name, f"http://{name}", True, rooms=(Room(0, "cuda", "gpu", 0),), replicas=replicas)


def only(replica: ReplicaView, *others: NodeView, **moment: Any) -> Resident:
    here = node("a", replica)
    (found,) = residents(here, Situation(NOW, FleetView.of((here, *others)), **moment))
    return found


def models(victims: tuple[Resident, ...] | None) -> set[str] | None:
    return None if victims is None else {victim.spot[1] for victim in victims}


def test_what_the_catalogue_does_not_know_has_the_default_class_and_no_protection() -> None:
    found = only(replica(last_used=900.0), policy=Policy(reload_guess=7.0))

    assert found == Resident(("a", "m"), {0: 8}, rank=100, idle_seconds=100.0, reload_seconds=7.0, ready_seconds=NOW)
    assert rank_of("m", {}) == 100


def test_what_has_failed_or_is_unloaded_holds_nothing() -> None:
    here = node("a", replica("x", state="failed"), replica("y", state="unloaded"), replica("z", state="loading"))

    assert [r.spot for r in residents(here, Situation(NOW, FleetView.of((here,))))] == [("a", "z")]


@pytest.mark.parametrize(
    ("spec", "pinned"),
    [
        (ModelSpec(id="m"), False),
        (ModelSpec(id="m", pinned=True), True),
        (ModelSpec(id="m", pinned_on=("a",)), True),
        (ModelSpec(id="m", pinned_on=("b",)), False),
    ],
)
def test_a_pin_holds_where_it_was_put(spec: ModelSpec, pinned: bool) -> None:
    assert only(replica(), catalogue={"m": spec}).pinned is pinned


def test_the_gateways_own_use_counts_when_it_is_later_than_what_the_node_told() -> None:
    assert only(replica(last_used=400.0), used={("a", "m"): 990.0}).idle_seconds == 10.0
    assert only(replica(last_used=999.0), used={("a", "m"): 990.0}).idle_seconds == 1.0
    assert only(replica(last_used=NOW + 5)).idle_seconds == 0.0


@pytest.mark.parametrize(
    "moment", [{"flights": {("a", "m"): 1}}, {"foreign": {("a", "m"): 2}}], ids=["ours", "another gateway's"]
)
def test_work_makes_busy_whoever_sent_it(moment: dict[str, Any]) -> None:
    assert only(replica(), **moment).busy is True
    assert only(replica()).busy is False


@pytest.mark.parametrize(
    ("others", "keep", "is_spare", "is_kept"),
    [(0, 0, False, False), (1, 0, True, False), (0, 1, False, True), (1, 1, True, False), (1, 2, False, True)],
)
def test_a_replica_beyond_min_resident_is_a_spare_and_one_within_it_is_kept(
    others: int, keep: int, is_spare: bool, is_kept: bool
) -> None:
    elsewhere = [node(f"b{at}", replica(node=f"b{at}")) for at in range(others)]

    found = only(replica(), *elsewhere, catalogue={"m": ModelSpec(id="m", min_resident=keep, max_replicas=9)})

    assert (found.is_spare, found.is_kept) == (is_spare, is_kept)


def test_others_that_load_or_leave_make_no_spare() -> None:
    loading, leaving = node("b", replica(node="b", state="loading")), node("c", replica(node="c"))

    assert not only(replica(), loading, leaving, leaving={("c", "m")}).is_spare


def test_the_price_falls_with_idleness_and_for_spares_and_rises_for_what_is_kept_or_busy() -> None:
    fresh = resident("m", {}, reload_seconds=40.0)

    assert fresh.price_seconds == 40.0
    assert resident("m", {}, reload_seconds=40.0, idle_seconds=300.0).price_seconds == 20.0
    assert resident("m", {}, reload_seconds=40.0, is_spare=True).price_seconds == 40.0 * SPARE_FACTOR
    assert resident("m", {}, reload_seconds=40.0, is_kept=True).price_seconds == 40.0 * KEPT_FACTOR
    assert resident("m", {}, reload_seconds=40.0, busy=True).price_seconds == 40.0 + DRAIN_SECONDS


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"rank": 100}, None),
        ({"rank": 1}, None),
        ({"rank": 101}, "higher class (101, not 100)"),
        ({"pinned": True}, "pinned"),
        ({"busy": True}, "busy"),
        ({"state": "loading"}, "loading"),
        ({"state": "draining"}, "leaving already"),
        ({"busy": True, "state": "draining"}, "leaving already"),
        ({"busy": True, "pinned": True}, "pinned"),
        ({"busy": True, "rank": 101}, "higher class"),
    ],
)
def test_an_equal_class_may_be_displaced_unless_something_stands_against_it(
    changed: dict[str, Any], reason: str | None
) -> None:
    """What no draining changes is told before that it is busy."""
    said = may_displace(100, resident("m", {0: 8}, **changed))

    assert said is None if reason is None else said is not None and reason in said


SMALL, LARGE = resident("small", {0: 4}, idle_seconds=10.0), resident("large", {0: 16}, idle_seconds=10.0)


@pytest.mark.parametrize(
    ("short", "held", "gone"),
    [
        ({0: 0}, [SMALL], set()),
        ({0: -5}, [SMALL], set()),
        ({0: 4}, [SMALL, LARGE], {"small"}),
        ({0: 5}, [SMALL, LARGE], {"large"}),
        ({0: 20}, [SMALL, LARGE], {"small", "large"}),
        ({0: 21}, [SMALL, LARGE], None),
        ({0: 1}, [], None),
        ({1: 1}, [SMALL], None),
        ({0: 4, 1: 4}, [resident("x", {0: 4}), resident("y", {1: 4}), resident("xy", {0: 4, 1: 4})], {"xy"}),
        ({0: 4, 1: 5}, [resident("x", {0: 4}), resident("y", {1: 4}), resident("xy", {0: 4, 1: 4})], {"y", "xy"}),
    ],
)
def test_enough_goes_on_every_device_and_no_more(
    short: dict[int, int], held: list[Resident], gone: set[str] | None
) -> None:
    assert models(cheapest_victims(short, held, "lru")) == gone


def test_lru_opens_what_is_idle_longest_first_whatever_it_costs() -> None:
    dear = resident("dear", {0: 8}, idle_seconds=60.0, reload_seconds=900.0)
    cheap = resident("cheap", {0: 8}, idle_seconds=59.0, reload_seconds=1.0)

    assert models(cheapest_victims({0: 8}, [cheap, dear], "lru")) == {"dear"}
    assert models(cheapest_victims({0: 8}, [cheap, dear], "priority")) == {"cheap"}


def test_what_is_idle_longest_stays_if_it_does_not_help() -> None:
    old = resident("old", {0: 2}, idle_seconds=60.0)
    new = resident("new", {0: 8}, idle_seconds=1.0)

    assert models(cheapest_victims({0: 8}, [old, new], "lru")) == {"new"}


def test_priority_opens_the_lowest_class_first_whatever_it_costs() -> None:
    low = [resident(f"low{at}", {0: 4}, rank=1, reload_seconds=100.0) for at in range(2)]
    high = resident("high", {0: 8}, rank=50, reload_seconds=1.0, idle_seconds=999.0)

    assert models(cheapest_victims({0: 8}, [high, *low], "priority")) == {"low0", "low1"}
    assert models(cheapest_victims({0: 9}, [high, *low], "priority")) == {"high", "low0"}


def test_two_cheap_ones_go_rather_than_a_dear_one() -> None:
    pair = [resident(f"spare{at}", {0: 4}, is_spare=True) for at in range(2)]

    assert models(cheapest_victims({0: 8}, [resident("dear", {0: 8}), *pair], "priority")) == {"spare0", "spare1"}


def test_a_search_that_is_too_wide_still_frees_enough_and_no_more() -> None:
    """Thirty of one price: more subsets than are looked at, so the greedy set stands."""
    many = [resident(f"m{at:02}", {0: 10 + at}) for at in range(30)]

    victims = cheapest_victims({0: 500}, many, "priority")

    assert MAX_EXPANSIONS < 2**30
    assert victims is not None
    assert is_enough({0: 500}, victims)
    assert is_minimal({0: 500}, victims)


def is_enough(short: Mapping[int, int], victims: tuple[Resident, ...]) -> bool:
    return all(sum(v.bytes_by_device.get(device, 0) for v in victims) >= bytes_ for device, bytes_ in short.items())


def is_minimal(short: Mapping[int, int], victims: tuple[Resident, ...]) -> bool:
    return not any(is_enough(short, tuple(v for v in victims if v is not spared)) for spared in victims)


RESIDENTS = st.lists(
    st.builds(
        Resident,
        st.tuples(st.just("a"), st.sampled_from("bcdefghi")),
        st.dictionaries(st.integers(0, 2), st.integers(1, 9), max_size=3),
        rank=st.sampled_from([1, 100]),
        idle_seconds=st.sampled_from([0.0, 60.0, 3600.0]),
        reload_seconds=st.sampled_from([0.0, 1.0, 10.0, 30.0]),
        busy=st.booleans(),
        is_spare=st.booleans(),
    ),
    unique_by=lambda r: r.spot,
    max_size=8,
)
SHORT = st.dictionaries(st.integers(0, 2), st.integers(0, 20), max_size=3)
STRATEGY: st.SearchStrategy[Strategy] = st.sampled_from(["lru", "priority"])


@settings(deadline=None)
@given(SHORT, RESIDENTS, STRATEGY, st.randoms())
def test_the_victims_are_the_cheapest_of_all_sets_that_open_no_tier_needlessly(
    short: dict[int, int], held: list[Resident], strategy: Strategy, random: Any
) -> None:
    """Compared with every subset there is."""
    subsets = [chosen for size in range(len(held) + 1) for chosen in combinations(held, size)]
    enough = [chosen for chosen in subsets if is_enough(short, chosen)]

    victims = cheapest_victims(short, held, strategy)

    assert cheapest_victims(short, random.sample(held, len(held)), strategy) == victims
    if victims is None:
        assert not enough
        return
    assert is_enough(short, victims)
    assert is_minimal(short, victims)
    best = min((worst_tier(chosen, strategy), price(chosen)) for chosen in enough)
    assert worst_tier(victims, strategy) == best[0]
    assert price(victims) == pytest.approx(best[1])


def worst_tier(chosen: tuple[Resident, ...], strategy: Strategy) -> float:
    return max((tier_of(r, strategy) for r in chosen), default=float("-inf"))


def price(chosen: tuple[Resident, ...]) -> float:
    return sum(r.price_seconds for r in chosen)
