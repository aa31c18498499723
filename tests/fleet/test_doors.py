from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import Overloaded
from cortex.fleet.affinity import Keys
from cortex.fleet.doors import Doors, Ticket
from cortex.fleet.situation import Policy
from cortex.fleet.view import ReplicaView
from cortex.wire.engine_api import Timings, Usage

POLICY = Policy(queue_depth=3, queue_seconds=60.0)


def replica(node: str = "a", slots: int = 1, model: str = "m") -> ReplicaView:
    return ReplicaView(model, node, "ready", slots=slots)


def ticket(arrived: float = 0.0, *, avoid: str = "", **changed: Any) -> Ticket:
    return Ticket("m", arrived, avoid=set(avoid), **changed)


def queued(*tickets: Ticket) -> Doors:
    doors = Doors()
    for each in tickets:
        assert doors.admit(each, (), POLICY) is None
    return doors


def learned(doors: Doors, seconds: float = 10.0) -> None:
    """Have the replica on `a` known for taking so many seconds a request, about."""
    doors.flights["a", "m"] += 1
    timings = Timings(queue_ms=0, prefill_ms=seconds * 100, decode_ms=seconds * 900)
    doors.finished(("a", "m"), 0.0, Usage(100, 100, 0), timings)


def test_a_replica_is_held_from_the_choice_until_its_request_is_finished() -> None:
    doors = Doors()
    choice = doors.choose(ticket(), (replica(),), 5.0)

    assert choice is not None
    assert (dict(doors.flights), doors.used) == ({("a", "m"): 1}, {("a", "m"): 5.0})
    assert doors.choose(ticket(), (replica(),), 6.0) is None
    doors.finished(("a", "m"), 7.0, None, None)
    assert (dict(doors.flights), doors.used) == ({}, {("a", "m"): 7.0})


def test_nothing_is_chosen_where_nothing_is_ready_or_all_is_avoided() -> None:
    doors = Doors()

    assert doors.choose(ticket(), (), 0.0) is None
    assert doors.choose(ticket(avoid="a"), (replica(),), 0.0) is None
    assert dict(doors.flights) == {}


def test_a_prompt_is_read_once_and_only_where_there_is_a_choice() -> None:
    read: list[int] = []

    def keys() -> Keys:
        read.append(1)
        return Keys("session", ())

    doors, asked = Doors(), ticket(keys=keys)
    doors.choose(asked, (replica(),), 0.0)
    assert read == []
    for _ in range(2):
        doors.choose(asked, (replica("a", 9), replica("b", 9)), 0.0)

    assert read == [1]


def test_where_a_request_was_served_is_remembered_by_its_keys() -> None:
    doors, keys = Doors(), Keys("session")
    choice = doors.choose(ticket(keys=lambda: keys), (replica("a", 9), replica("b", 9)), 0.0)

    assert choice is not None
    assert list(doors.affinity.warm("m", keys, 1.0)) == [choice.replica.node]


@pytest.mark.parametrize("replicas", [4, 40])
def test_a_replica_that_was_loaded_anew_has_nothing_of_what_it_served_before(replicas: int) -> None:
    """Loaded again on the same node, it is the process that has the prompt cached, or has not."""
    doors, keys = Doors(), Keys("session", ((7, 100),))

    def served(now: float, **ready_since: float) -> str:
        names = [f"n{at:02}" for at in range(replicas)]
        ready = [ReplicaView("m", name, "ready", 9, ready_since=ready_since.get(name, 0.0)) for name in names]
        choice = doors.choose(ticket(keys=lambda: keys), ready, now)
        assert choice is not None
        doors.finished(choice.replica.spot, now, None, None)
        return f"{choice.replica.node}: {choice.reason}"

    first = served(10.0)[:3]

    assert served(20.0) == f"{first}: warm prefix"
    assert served(30.0, **{first: 10.0}) == f"{first}: warm prefix"
    assert not served(50.0, **{first: 40.0}).endswith("warm prefix")


def test_what_is_learned_of_a_request_is_its_replica_s_pace_and_its_model_s_shape() -> None:
    doors = Doors()
    learned(doors)
    assert list(doors.paces) == [("a", "m")]
    assert list(doors.shapes) == ["m"]
    doors.forget_node("b")
    assert doors.paces != {}
    doors.forget_node("a")
    assert doors.paces == {}


def test_the_queue_is_served_in_order_as_far_as_slots_go() -> None:
    tickets = [ticket(at) for at in range(3)]
    doors = queued(*tickets)
    served = list(doors.serve("m", (replica(slots=2),), 0.0))

    assert [each for each, _ in served] == tickets[:2]
    assert doors.waiting("m") == (tickets[2],)
    assert list(doors.serve("m", (replica(slots=2),), 0.0)) == []


def test_one_that_avoids_what_is_free_keeps_its_place_and_holds_nobody_up() -> None:
    picky, plain, last = ticket(avoid="a"), ticket(), ticket()
    doors = queued(picky, plain, last)

    assert [each for each, _ in doors.serve("m", (replica("a"),), 0.0)] == [plain]
    assert doors.waiting("m") == (picky, last)
    assert [each for each, _ in doors.serve("m", (replica("a"), replica("b")), 0.0)] == [picky]


def test_leaving_is_told_once_and_frees_the_place() -> None:
    first, second = ticket(), ticket()
    doors = queued(first, second)

    assert [doors.leave(first), doors.leave(first)] == [True, False]
    assert doors.place_of(second) == (1, 1)
    assert doors.leave(second)
    assert not doors.waits("m")
    assert doors.waiting_since() == {}


def test_as_many_wait_as_the_depth_for_each_replica_says() -> None:
    doors = queued(*(ticket() for _ in range(3)))
    refusal = doors.admit(ticket(), (), POLICY)

    assert isinstance(refusal, Overloaded)
    assert "none yet, as it is being loaded" in str(refusal)
    assert doors.admit(ticket(), (replica("a"), replica("b")), POLICY) is None


def test_one_that_could_not_be_served_in_time_is_refused_with_when_to_come_back() -> None:
    doors = queued(ticket(), ticket())
    learned(doors, seconds=25.0)
    doors.flights["a", "m"] += 1
    refusal = doors.admit(ticket(), (replica(),), POLICY)

    assert isinstance(refusal, Overloaded)
    assert refusal.retry_after_seconds is not None
    assert 1 <= refusal.retry_after_seconds <= 60
    assert doors.place_of(ticket())[1] == 2


def test_those_who_came_too_long_ago_are_taken_out_wherever_they_stand() -> None:
    """One whose first attempt failed comes back to the end of the queue with the time at which it first came."""
    front, old, new = ticket(10.0), ticket(1.0), ticket(12.0)
    doors = queued(front, old, new)

    assert list(doors.late("m", 10.0)) == [old]
    assert doors.waiting("m") == (front, new)
    assert doors.waiting_since() == {"m": 10.0}


@pytest.mark.parametrize(("why", "said"), [("", "for 30 s"), ("a is busy", "for 30 s: a is busy")])
def test_one_that_is_overdue_hears_how_long_it_waited_and_for_what(why: str, said: str) -> None:
    error = Doors().overdue(ticket(5.0), (), 35.0, why)

    assert str(error) == f"no replica of m was free {said}"
    assert error.retry_after_seconds == 1


def test_one_that_waits_is_told_its_place_and_how_long_it_may_last() -> None:
    first, second = ticket(), ticket()
    doors = queued(first, second)
    learned(doors, seconds=10.0)

    assert doors.comment(second, (replica(),)).startswith("waiting: place 2 of 2, about ")
    assert doors.comment(first, (replica(),)).startswith("waiting: place 1 of 2, about ")


steps = st.lists(st.sampled_from(["ask", "ask", "finish", "leave"]), max_size=40)


@given(steps, st.integers(1, 3), st.data())
def test_no_slot_is_given_twice_and_nobody_is_overtaken(steps: list[str], slots: int, data: st.DataObject) -> None:
    doors, ready, flying = Doors(), (replica(slots=slots),), 0
    waiting: list[Ticket] = []
    for at, step in enumerate(steps):
        if step == "ask" and len(waiting) < POLICY.queue_depth:
            waiting.append(ticket(float(at)))
            doors.admit(waiting[-1], ready, Policy())
        elif step == "finish" and flying:
            doors.finished(("a", "m"), float(at), None, None)
            flying -= 1
        elif step == "leave" and waiting:
            assert doors.leave(waiting.pop(data.draw(st.integers(0, len(waiting) - 1))))
        served = [each for each, _ in doors.serve("m", ready, float(at))]
        assert served == waiting[: slots - flying]
        flying += len(served)
        del waiting[: len(served)]

        assert doors.waiting("m") == tuple(waiting)
        assert doors.flights["a", "m"] == flying <= slots
