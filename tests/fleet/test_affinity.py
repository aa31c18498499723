from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.fleet.affinity import FADED_AFTER_SECONDS, Affinity, Keys
from cortex.fleet.pace import Pace, Shape
from cortex.fleet.route import choose
from cortex.fleet.view import ReplicaView
from cortex.wire.session import Chain

M = "Qwen/Qwen3"


def chain(*messages: str, size: int = 100) -> Chain:
    """Return a chain over *messages* of so many bytes each."""
    return tuple((hash(messages[: at + 1]), size * (at + 1)) for at in range(len(messages)))


def turns(count: int) -> Chain:
    return chain(*(f"message {at}" for at in range(count)))


def test_what_nobody_served_is_warm_nowhere() -> None:
    affinity = Affinity()

    affinity.remember(M, Keys("mine", turns(3)), "a", 0.0)

    assert affinity.warm(M, Keys("yours", chain("other")), 0.0) == {}
    assert affinity.warm(M, Keys(), 0.0) == {}
    assert affinity.warm("other model", Keys("mine", turns(3)), 0.0) == {}


def test_a_session_is_mostly_warm_where_it_was_served_last() -> None:
    affinity = Affinity()

    affinity.remember(M, Keys("mine"), "a", 0.0)
    affinity.remember(M, Keys("mine"), "b", 1.0)

    assert affinity.warm(M, Keys("mine"), 1.0) == {"b": 0.9}


def test_the_next_turn_is_warm_for_all_that_was_said_before() -> None:
    affinity = Affinity()

    affinity.remember(M, Keys(None, turns(8)), "a", 0.0)

    assert affinity.warm(M, Keys(None, turns(10)), 0.0) == {"a": 0.8}
    assert affinity.warm(M, Keys(None, turns(8)), 0.0) == {"a": 1.0}


def test_a_prompt_that_begins_alike_is_warm_for_as_long_as_it_is_alike() -> None:
    affinity = Affinity()

    affinity.remember(M, Keys(None, chain("system", "question")), "a", 0.0)

    assert affinity.warm(M, Keys(None, chain("system", "else", "x", "y")), 0.0) == {"a": 0.25}
    assert affinity.warm(M, Keys(None, chain("else", "question")), 0.0) == {}


def test_a_conversation_that_moved_is_warmer_where_it_is_now() -> None:
    affinity = Affinity()

    affinity.remember(M, Keys("mine", turns(2)), "a", 0.0)
    affinity.remember(M, Keys("mine", turns(19)), "b", 0.0)

    assert affinity.warm(M, Keys("mine", turns(20)), 0.0) == {"a": 0.1, "b": 0.95}


def test_a_turn_deep_in_a_long_conversation_is_found_again() -> None:
    affinity = Affinity()
    for length in range(1, 61, 2):
        affinity.remember(M, Keys(None, turns(length)), "a", 0.0)

    forked = chain(*(f"message {at}" for at in range(30)), "another question")

    assert affinity.warm(M, Keys(None, forked), 0.0) == {"a": pytest.approx(30 / 31)}


def test_what_is_known_fades_and_is_gone_after_half_an_hour() -> None:
    affinity, keys = Affinity(), Keys("mine", turns(2))

    affinity.remember(M, keys, "a", 100.0)

    assert affinity.warm(M, keys, 100.0 + FADED_AFTER_SECONDS / 2) == {"a": 0.5}
    assert affinity.warm(M, keys, 100.0 + FADED_AFTER_SECONDS) == {}
    assert affinity.warm(M, keys, 99.0) == {"a": 1.0}


def test_what_a_node_served_before_its_replica_was_loaded_is_not_warm_there() -> None:
    affinity, loaded = Affinity(), {"a": 20.0, "b": 0.0}
    affinity.remember(M, Keys("mine", turns(2)), "b", 10.0)
    affinity.remember(M, Keys("mine", turns(4)), "a", 10.0)

    assert affinity.warm(M, Keys("mine", turns(4)), 10.0, loaded.__getitem__) == {"b": 0.5}
    affinity.remember(M, Keys(None, turns(1)), "a", 20.0)
    assert affinity.warm(M, Keys("mine", turns(4)), 20.0, loaded.__getitem__)["a"] == 0.25


def test_what_begins_many_conversations_is_warm_on_the_last_four_nodes() -> None:
    affinity, keys = Affinity(), Keys(None, chain("system"))

    for at, node in enumerate("abcdec"):
        affinity.remember(M, keys, node, float(at))

    assert set(affinity.warm(M, keys, 5.0)) == {"b", "c", "d", "e"}


def test_the_keys_that_were_unused_for_longest_are_forgotten_first() -> None:
    affinity = Affinity(capacity=3)
    for session in "abcad":
        affinity.remember(M, Keys(session), "node", 0.0)

    assert len(affinity) == 3
    assert [bool(affinity.warm(M, Keys(session), 0.0)) for session in "abcd"] == [True, False, True, True]


def test_a_long_conversation_takes_few_keys_a_turn() -> None:
    affinity = Affinity()

    affinity.remember(M, Keys("mine", turns(64)), "a", 0.0)

    assert len(affinity) == 9


def test_a_conversation_stays_while_its_replica_is_idle_and_leaves_when_that_is_nearly_full() -> None:
    affinity, keys = Affinity(), Keys("mine", turns(4))
    there = tuple(ReplicaView(M, node, "ready", 4) for node in "ab")
    affinity.remember(M, keys, "b", 0.0)
    warm = affinity.warm(M, Keys("mine", turns(6)), 10.0)

    served = [
        choose(there, flights={("b", M): busy}, paces={("b", M): Pace(1000, 50)}, shape=Shape(8000, 100), warm=warm)
        for busy in range(4)
    ]

    assert [choice and choice.replica.node for choice in served] == ["b", "b", "a", "a"]


MESSAGES = st.lists(st.sampled_from("xyz"), min_size=1, max_size=20)
STEPS = st.lists(
    st.tuples(st.none() | st.sampled_from("st"), MESSAGES, st.sampled_from("abcdef"), st.floats(0, 4000)), max_size=20
)


@given(STEPS, MESSAGES, st.none() | st.sampled_from("st"), st.floats(0, 8000), st.integers(1, 30))
def test_warmth_is_a_fraction_on_nodes_that_served_and_the_table_is_bounded(
    steps: list[tuple[str | None, list[str], str, float]],
    messages: list[str],
    session: str | None,
    now: float,
    capacity: int,
) -> None:
    affinity = Affinity(capacity)
    for step_session, said, node, at in steps:
        affinity.remember(M, Keys(step_session, chain(*said)), node, at)
        assert len(affinity) <= capacity

    warm = affinity.warm(M, Keys(session, chain(*messages)), now)

    assert set(warm) <= {node for _, _, node, _ in steps}
    assert all(0 < fraction <= 1 for fraction in warm.values())


@given(MESSAGES, MESSAGES)
def test_what_was_just_served_is_warm_for_the_turn_after_it(said: list[str], more: list[str]) -> None:
    affinity = Affinity()

    affinity.remember(M, Keys(None, chain(*said)), "a", 0.0)
    warm = affinity.warm(M, Keys(None, chain(*said, *more)), 0.0)

    assert warm["a"] >= len(said) / (len(said) + len(more))
