"""The stages of a load add up to it."""

from __future__ import annotations

from cortex.neuron.stages import FIRST_STAGE, Stages
from cortex.wire.node_api import LoadProgress, LoadStage


def test_each_stage_lasts_until_the_next_one_and_the_last_until_the_load_is_over() -> None:
    stages = Stages()
    stages.begin(10.0)
    stages.tell(LoadProgress("download", 1), 11.0)
    stages.tell(LoadProgress("download", 50), 15.0)
    stages.tell(LoadProgress("weights"), 31.0)
    stages.tell(None, 40.0)

    assert stages.told(99.0) == [LoadStage(FIRST_STAGE, 1), LoadStage("download", 20), LoadStage("weights", 9)]


def test_a_load_under_way_is_told_until_now() -> None:
    stages = Stages()
    stages.begin(10.0)
    stages.tell(LoadProgress("weights"), 10.5)

    assert stages.told(12.0)[-1] == LoadStage("weights", 1.5)


def test_a_restart_begins_anew() -> None:
    stages = Stages()
    stages.begin(10.0)
    stages.tell(None, 12.0)
    stages.begin(100.0)

    assert stages.told(101.0) == [LoadStage(FIRST_STAGE, 1)]


def test_what_was_never_loaded_has_none() -> None:
    assert Stages().told(5.0) == []
