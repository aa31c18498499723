from __future__ import annotations

from typing import Any

from hypothesis import given, settings

from cortex.core.model_spec import ModelSpec
from cortex.fleet.place import explain, place
from cortex.fleet.plan import HELD, NOT_FREE, Ask
from cortex.fleet.screen import NAME_AT, Screen
from cortex.fleet.situation import Situation
from small_fleets import NEW, SPECS, WAYS, holding, moments, replica, situation


@settings(deadline=None, max_examples=200)
@given(SPECS, moments(), WAYS)
def test_what_is_said_of_nodes_at_a_glance_holds_when_they_are_looked_at_whole(
    spec: ModelSpec, moment: Situation, ways: dict[str, Any]
) -> None:
    avoid, how = ways.get("avoid", frozenset()), {key: value for key, value in ways.items() if key != "avoid"}
    told = {candidate.node: candidate for candidate in explain(spec, moment, **ways)}
    sifted = Screen.of(Ask(spec, moment, **how), avoid).sift(moment.view.nodes)
    bounds = {bound[NAME_AT]: bound for bound in (*sifted.free, *sifted.full)}

    assert sorted((*bounds, *sifted.later, *sifted.never)) == sorted(told)
    assert all(told[name].plan is None for name in sifted.later)
    assert all(told[name].verdict == "never" for name in sifted.never)
    assert all(plan is None or bounds[name] <= plan.sort_key for name in bounds for plan in (told[name].plan,))


@settings(deadline=None, max_examples=200)
@given(SPECS, moments(), WAYS)
def test_full_nodes_that_are_set_apart_have_no_plan_and_those_set_apart_for_ever_never_will(
    spec: ModelSpec, moment: Situation, ways: dict[str, Any]
) -> None:
    avoid, how = ways.get("avoid", frozenset()), {key: value for key, value in ways.items() if key != "avoid"}
    told = {candidate.node: candidate for candidate in explain(spec, moment, **ways)}
    screen = Screen.of(Ask(spec, moment, **how), avoid)
    sifted = screen.sift(moment.view.nodes)
    again = screen.resift(sifted, moment.view)

    assert again.free == sifted.free
    assert set(again.full) <= set(sifted.full)
    assert sorted((*(b[NAME_AT] for b in (*again.free, *again.full)), *again.later, *again.never)) == sorted(told)
    assert all(told[name].plan is None for name in again.later)
    assert all(told[name].verdict == "never" for name in again.never)


def test_of_many_full_nodes_the_one_that_has_enough_to_give_is_found() -> None:
    """However little the others promise, and though they promise more."""
    many = [holding(f"n{at:03}", 0, replica(f"n{at:03}", "old", 4, idle=900)) for at in range(100)]
    last = holding("z", 0, replica("z", "large", 20, idle=10))

    found = place(NEW, situation(*many, last)).plan

    assert found is not None
    assert found.victims == (("z", "large"),)


def test_of_many_full_nodes_with_too_little_to_give_each_is_waited_for_or_is_not() -> None:
    pinned = {"kept": ModelSpec(id="kept", pinned=True)}
    gives_little = [
        holding(f"n{at:03}", 0, replica(f"n{at:03}", "kept", 18), replica(f"n{at:03}", "old", 4)) for at in range(100)
    ]
    busy = holding("z", 0, replica("z", "worked", 18), replica("z", "old", 4))
    moment = situation(*gives_little, busy, catalogue=pinned, flights={("z", "worked"): 1})

    placement = place(NEW, moment)

    assert (placement.plan, placement.held) == (None, (("z", NOT_FREE),))
    assert {reason for _, reason in placement.rejected} == {HELD}
