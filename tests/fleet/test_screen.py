from __future__ import annotations

from typing import Any

from hypothesis import given, settings

from cortex.core.model_spec import ModelSpec
from cortex.fleet.place import explain
from cortex.fleet.plan import Ask
from cortex.fleet.screen import NAME_AT, Screen
from cortex.fleet.situation import Situation
from small_fleets import SPECS, WAYS, moments


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
