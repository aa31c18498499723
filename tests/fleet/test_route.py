from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Set
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cortex.fleet.pace import UNLEARNED, Pace, Shape, service_seconds
from cortex.fleet.route import COMPARED, Choice, Ranked, choose, ranking
from cortex.fleet.view import ReplicaView, Spot

QWEN = "Qwen/Qwen3"
CHAT = Shape(1000.0, 200.0)
MEDIUM, FAST = Pace(1000.0, 50.0), Pace(2000.0, 100.0)

Fleet = tuple[ReplicaView, ...]


def replicas(**slots: int) -> Fleet:
    return tuple(ReplicaView(QWEN, node, "ready", count) for node, count in slots.items())


def decide(
    there: Fleet,
    *,
    flights: Mapping[str, int] | None = None,
    paces: Mapping[str, Pace] | None = None,
    shape: Shape = CHAT,
    warm: Mapping[str, float] | None = None,
    turn: int = 0,
    avoid: Set[str] = frozenset(),
) -> Choice | None:
    under_way = {(node, QWEN): count for node, count in (flights or {}).items()}
    known = {(node, QWEN): pace for node, pace in (paces or {}).items()}
    return choose(there, flights=under_way, paces=known, shape=shape, warm=warm or {}, turn=turn, avoid=avoid)


def node_of(choice: Choice | None) -> str | None:
    return choice.replica.node if choice else None


def explained(
    there: Fleet,
    flights: Mapping[str, int],
    paces: Mapping[str, Pace],
    warm: Mapping[str, float],
    avoid: Set[str] = frozenset(),
) -> tuple[Ranked, ...]:
    under_way = {(node, QWEN): count for node, count in flights.items()}
    known = {(node, QWEN): pace for node, pace in paces.items()}
    return ranking(there, flights=under_way, paces=known, shape=CHAT, warm=warm, avoid=avoid)


@pytest.mark.parametrize(
    ("slots", "flights", "winner"),
    [
        ({"b": 1, "a": 1}, {}, "a"),
        ({"a": 1, "b": 1}, {"a": 1}, "b"),
        ({"a": 2, "b": 4}, {"a": 1, "b": 1}, "b"),
        ({"b": 4, "a": 2}, {"a": 1, "b": 2}, "a"),
        ({"a": 4, "b": 1}, {"a": 3, "b": 1}, "a"),
        ({"a": 0, "b": 1}, {"b": 1}, "a"),
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, None),
        ({}, {}, None),
    ],
)
def test_among_equals_the_least_full_one_serves_and_a_full_one_never(
    slots: dict[str, int], flights: dict[str, int], winner: str | None
) -> None:
    assert node_of(decide(replicas(**slots), flights=flights)) == winner


def test_requests_for_another_model_do_not_count() -> None:
    choice = choose(replicas(a=1, b=1), flights={("a", "other"): 1}, paces={("b", "other"): FAST}, shape=CHAT, warm={})

    assert node_of(choice) == "a"


def test_the_faster_one_serves_until_it_is_too_full_to_be_done_first() -> None:
    there, paces = replicas(a=4, b=4), {"a": MEDIUM, "b": Pace(1400.0, 70.0)}

    assert [node_of(decide(there, paces=paces, flights={"b": busy})) for busy in range(4)] == ["b", "b", "a", "a"]


def test_what_is_asked_for_decides_which_replica_is_the_faster_one() -> None:
    there, paces = replicas(reader=1, writer=1), {"reader": Pace(4000.0, 40.0), "writer": Pace(1000.0, 80.0)}

    assert node_of(decide(there, paces=paces, shape=Shape(8000.0, 20.0))) == "reader"
    assert node_of(decide(there, paces=paces, shape=Shape(200.0, 500.0))) == "writer"


@pytest.mark.parametrize("new", [None, UNLEARNED])
def test_a_replica_that_was_never_measured_is_as_fast_as_the_mean_of_the_others(new: Pace | None) -> None:
    there, paces = replicas(fast=1, new=1, slow=1), {"fast": FAST, "slow": MEDIUM}
    paces |= {"new": new} if new else {}

    order = [ranked.replica.node for ranked in explained(there, {}, paces, {})]

    assert order == ["fast", "new", "slow"]
    choice = decide(there[1:], paces=paces | {"slow": FAST}, flights={})
    assert choice is not None
    assert (choice.replica.node, choice.expected_seconds) == ("new", service_seconds(FAST, CHAT))


def test_a_warm_prefix_is_worth_the_prefill_that_it_saves() -> None:
    there, paces = replicas(a=4, b=4), {"a": MEDIUM, "b": MEDIUM}

    cold = decide(there, paces=paces)
    warm = decide(there, paces=paces, warm={"b": 0.9})

    assert cold is not None
    assert warm is not None
    assert (cold.replica.node, cold.expected_seconds, cold.reason) == ("a", 5.0, "least expected time")
    assert (warm.replica.node, warm.reason) == ("b", "warm prefix")
    assert warm.expected_seconds == pytest.approx(4.1)


def test_a_much_faster_replica_is_not_left_for_a_warm_one() -> None:
    choice = decide(replicas(a=4, b=4), paces={"a": FAST, "b": MEDIUM}, warm={"b": 0.9})

    assert (node_of(choice), choice and choice.reason) == ("a", "least expected time")


def test_a_single_free_replica_needs_no_reason() -> None:
    choice = decide(replicas(a=1, b=1, c=1), flights={"a": 1}, avoid={"c"}, warm={"b": 0.5})

    assert (node_of(choice), choice and choice.reason) == ("b", "only free replica")


MANY = tuple(f"n{number:03}" for number in range(100))
CROWD = replicas(**dict.fromkeys(MANY, 2))


def test_of_many_replicas_each_has_its_turn() -> None:
    assert [node_of(decide(CROWD, turn=turn)) for turn in range(200)] == [*MANY, *MANY]


def test_of_many_replicas_the_best_of_the_next_32_serves() -> None:
    paces = {**dict.fromkeys(MANY, MEDIUM), "n040": FAST}

    assert [node_of(decide(CROWD, turn=turn, paces=paces)) for turn in (8, 9, 40, 41)] == [
        "n008",
        "n040",
        "n040",
        "n041",
    ]
    assert node_of(decide(CROWD, turn=90, paces={**dict.fromkeys(MANY, MEDIUM), "n021": FAST})) == "n021"


def test_of_many_replicas_a_warm_one_is_always_compared() -> None:
    for turn in range(0, 100, 7):
        assert node_of(decide(CROWD, turn=turn, warm={"gone": 1.0, "n050": 0.9})) == "n050"
    assert node_of(decide(CROWD, warm={"n050": 0.9}, flights={"n050": 2})) == "n000"
    assert node_of(decide(CROWD, warm={"n050": 0.9}, avoid={"n050"})) == "n000"


@pytest.mark.parametrize("turn", [0, 1, 31, 68, 69, 99, 100, 12345])
@pytest.mark.parametrize("last", ["n000", "n042", "n099"])
def test_of_many_replicas_the_last_free_one_is_found(turn: int, last: str) -> None:
    assert node_of(decide(CROWD, turn=turn, flights={node: 2 for node in MANY if node != last})) == last
    assert decide(CROWD, turn=turn, flights=dict.fromkeys(MANY, 2)) is None


def test_an_explanation_lists_every_replica_and_what_is_special_about_it() -> None:
    there = replicas(a=1, b=2, c=2, d=2)

    ranked = explained(there, {"a": 1, "b": 1}, {"a": MEDIUM, "b": MEDIUM, "c": MEDIUM}, {"b": 0.5}, {"d"})

    assert [(r.replica.node, r.flights, r.slots, r.note, r.eligible) for r in ranked] == [
        ("c", 0, 2, "", True),
        ("b", 1, 2, "has about 50% of the prompt", True),
        ("d", 0, 2, "failed this request, not measured yet", False),
        ("a", 1, 1, "no free slot", False),
    ]


NAMES = st.sampled_from("abcdefgh")
FLEETS = st.lists(
    st.builds(ReplicaView, st.just(QWEN), NAMES, st.just("ready"), st.integers(0, 4)),
    unique_by=lambda replica: replica.node,
    max_size=8,
).map(tuple)
FLIGHTS = st.dictionaries(NAMES, st.integers(0, 5))
RATES = st.floats(0.01, 1e6)
PACES = st.dictionaries(NAMES, st.sampled_from([MEDIUM, FAST]) | st.builds(Pace, RATES, RATES, st.integers(0, 3)))
WARM = st.dictionaries(NAMES, st.floats(0.0, 1.0))
AVOID = st.sets(NAMES, max_size=3)


@given(FLEETS, FLIGHTS, PACES, WARM, AVOID, st.integers(0, 99))
def test_no_request_goes_where_it_failed_or_where_no_slot_is_free(
    there: Fleet, flights: dict[str, int], paces: dict[str, Pace], warm: dict[str, float], avoid: set[str], turn: int
) -> None:
    choice = decide(there, flights=flights, paces=paces, warm=warm, avoid=avoid, turn=turn)

    free = {r.node for r in there if flights.get(r.node, 0) < max(1, r.slots)} - avoid
    assert (choice is None) == (not free)
    if choice is not None:
        assert choice.replica.node in free
        assert choice.expected_seconds >= 0


def told(choice: Choice | None) -> tuple[object, ...] | None:
    """What a choice says, without what it was made from."""
    return (choice.replica, choice.expected_seconds, choice.reason) if choice is not None else None


@given(FLEETS, FLIGHTS, PACES, WARM, AVOID, st.randoms(), st.integers(0, 99))
def test_the_order_in_which_replicas_are_listed_says_nothing(
    there: Fleet,
    flights: dict[str, int],
    paces: dict[str, Pace],
    warm: dict[str, float],
    avoid: set[str],
    luck: Random,
    turn: int,
) -> None:
    shuffled = tuple(luck.sample(there, len(there)))
    first = decide(there, flights=flights, paces=paces, warm=warm, avoid=avoid)
    second = decide(shuffled, flights=flights, paces=paces, warm=warm, avoid=avoid, turn=turn)

    assert told(second) == told(first)


@given(FLEETS, FLIGHTS, PACES, WARM, AVOID)
def test_an_explanation_begins_with_the_choice(
    there: Fleet, flights: dict[str, int], paces: dict[str, Pace], warm: dict[str, float], avoid: set[str]
) -> None:
    ranked = explained(there, flights, paces, warm, avoid)
    choice = decide(there, flights=flights, paces=paces, warm=warm, avoid=avoid)

    assert len(ranked) == len(there)
    if choice is None:
        assert not any(r.eligible for r in ranked)
    else:
        assert (ranked[0].replica, ranked[0].expected_seconds) == (choice.replica, choice.expected_seconds)


@given(st.integers(2, 16), st.floats(0.05, 1.0), PACES, st.builds(Shape, st.floats(1, 1e5), st.floats(0, 1e4)))
def test_of_equals_a_warm_one_serves_when_idle_and_not_when_it_is_nearly_full(
    slots: int, fraction: float, paces: dict[str, Pace], shape: Shape
) -> None:
    pace = paces.get("a", MEDIUM)
    there, known, warm = replicas(a=slots, b=slots), {"a": pace, "b": pace}, {"b": fraction}
    assume(service_seconds(pace, shape, fraction) < service_seconds(pace, shape))

    assert node_of(decide(there, paces=known, shape=shape, warm=warm)) == "b"
    assert node_of(decide(there, paces=known, shape=shape, warm=warm, flights={"b": -(-slots * 3 // 4)})) != "b"


Policy = Callable[[Fleet, Mapping[Spot, int], Mapping[Spot, Pace]], ReplicaView | None]


def by_expected_time(there: Fleet, flights: Mapping[Spot, int], paces: Mapping[Spot, Pace]) -> ReplicaView | None:
    choice = choose(there, flights=flights, paces=paces, shape=CHAT, warm={})
    return choice.replica if choice else None


def by_fewest_flights(there: Fleet, flights: Mapping[Spot, int], paces: Mapping[Spot, Pace]) -> ReplicaView | None:
    free = [replica for replica in there if flights.get(replica.spot, 0) < replica.slots]
    return min(free, key=lambda r: (flights.get(r.spot, 0), r.node), default=None)


def closed_loop(
    policy: Policy, paces: Mapping[str, Pace], slots: int, clients: int, luck: Random
) -> tuple[Counter[str], float]:
    """Return what each replica served, and the mean time that it took, of clients who ask again when answered.

    A replica is slower the fuller it is when a request begins, and answers vary in length by a factor of three.
    """
    there, known = replicas(**dict.fromkeys(paces, slots)), {(node, QWEN): pace for node, pace in paces.items()}
    flights: Counter[Spot] = Counter()
    served: Counter[str] = Counter()
    ends: list[tuple[float, int, Spot]] = []
    waiting, now, spent, number = clients, 0.0, 0.0, 0
    while number < 1500:
        while waiting and (replica := policy(there, flights, known)) is not None:
            load = flights[replica.spot] / slots
            seconds = service_seconds(known[replica.spot], CHAT) * (1 + load) * luck.uniform(0.5, 1.5)
            heapq.heappush(ends, (now + seconds, number, replica.spot))
            flights[replica.spot] += 1
            served[replica.node] += 1
            waiting, spent, number = waiting - 1, spent + seconds, number + 1
        now, _, spot = heapq.heappop(ends)
        flights[spot] -= 1
        waiting += 1
    return served, spent / number


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("slots", [1, 4])
def test_under_load_a_replica_that_is_so_much_faster_gets_so_much_more_work(
    ratio: float, slots: int, seed: int
) -> None:
    paces = {"a": MEDIUM, "b": Pace(1000.0 * ratio, 50.0 * ratio)}

    served, _ = closed_loop(by_expected_time, paces, slots, clients=3 * slots, luck=Random(seed))

    assert served["b"] / served["a"] == pytest.approx(ratio, rel=0.12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("clients", [1, 2, 4, 8, 12])
def test_at_any_load_answers_come_no_later_than_if_only_requests_were_counted(clients: int, seed: int) -> None:
    paces = {"a": MEDIUM, "b": FAST, "c": Pace(1500.0, 60.0)}

    _, expected = closed_loop(by_expected_time, paces, 4, clients, Random(seed))
    _, counted = closed_loop(by_fewest_flights, paces, 4, clients, Random(seed))

    assert expected <= counted * 1.05


def test_of_many_equal_replicas_all_get_the_same_work() -> None:
    served: Counter[str | None] = Counter()
    flights: Counter[str] = Counter()
    for turn in range(len(MANY)):
        winner = node_of(decide(CROWD, flights=flights, turn=turn))
        served[winner] += 1
        flights[winner or ""] += 1

    assert len(CROWD) > COMPARED
    assert set(served.values()) == {1}
