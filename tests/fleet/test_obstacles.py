from __future__ import annotations

from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.fleet.place import consider
from cortex.fleet.plan import HELD, NOT_FREE
from cortex.fleet.situation import Commitment
from small_fleets import GIB, NEW, holding, node, replica, situation


def test_a_candidate_tells_in_words_and_numbers_what_stands_in_the_way() -> None:
    here = holding(
        "a",
        1,
        replica("a", "busy", 6),
        replica("a", "pinned", 5),
        replica("a", "idle", 2),
        replica("a", "new", 0, state="failed"),
    )
    moment = situation(
        here,
        need=12,
        flights={("a", "busy"): 1},
        catalogue={"pinned": ModelSpec(id="pinned", pinned=True)},
        commitments={"a": (Commitment("soon", {0: GIB // 2}),)},
    )

    candidate = consider(NEW, here, moment)

    assert candidate.verdict == "never"
    assert candidate.devices == ((0, "gpu0", GIB // 2, 12 * GIB),)
    said = "\n".join(candidate.obstacles)
    assert "12288 MiB are needed on gpu0 (device 0), where 512 MiB can be used: 11776 MiB are missing" in said
    assert "busy has 6144 MiB there and is busy" in said
    assert "pinned has 5120 MiB there and is pinned there" in said
    assert "idle has 2048 MiB there and may go" in said
    assert "a plan for soon counts on 512 MiB there" in said
    assert "9984 MiB there belong to other programs" in said


def test_obstacles_are_told_of_the_device_that_could_hold_it_though_another_has_more_free() -> None:
    rooms = (
        Room(0, "cuda", "small", 3 * GIB, 0, 8 * GIB),
        Room(1, "cuda", "large", 1 * GIB, 1, 24 * GIB),
    )
    here = node("a", rooms=rooms, replicas=(replica("a", "pinned", 0, 20),))
    moment = situation(here, need=12, catalogue={"pinned": ModelSpec(id="pinned", pinned=True)})

    candidate = consider(NEW, here, moment)

    assert [room.name for room in candidate.devices] == ["large"]
    assert candidate.obstacles[1] == "pinned has 20480 MiB there and is pinned there"


def test_obstacles_are_told_of_the_device_that_the_reason_is_of() -> None:
    """One device is held by other programs, one by what is busy: it is worth waiting for the second alone."""
    rooms = tuple(Room(at, "cuda", f"gpu{at}", (3 - at) * GIB, at, 24 * GIB) for at in range(3))
    residents = replica("a", "pinned", 0, 22), replica("a", "busy", 0, 0, 22)
    here = node("a", rooms=rooms, replicas=residents)
    pinned = {"pinned": ModelSpec(id="pinned", pinned=True)}

    waits = consider(NEW, here, situation(here, need=12, catalogue=pinned, flights={("a", "busy"): 1}))
    never = consider(NEW, node("a", rooms=rooms[:2], replicas=residents[:1]), situation(need=12, catalogue=pinned))

    assert (waits.reason, waits.obstacles[1]) == (NOT_FREE, "busy has 22528 MiB there and is busy")
    assert (never.reason, never.obstacles[1]) == (HELD, "pinned has 22528 MiB there and is pinned there")
