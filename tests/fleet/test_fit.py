from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import InsufficientMemory, NoFeasibleNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room, Wish, choose_devices
from cortex.fleet.fit import FLOOR_BYTES, SETS_TRIED, DeviceSets, check_fit, device_sets
from cortex.fleet.situation import UNKNOWN, Need
from cortex.fleet.view import NodeView

GIB, MIB = 1 << 30, 1 << 20


def room(index: int, kind: str, free_gib: float) -> Room:
    return Room(index, kind, f"{kind}{index}", int(free_gib * GIB))


BIG, SMALL, AMD = room(0, "cuda", 24), room(1, "cuda", 8), room(2, "rocm", 16)
CPU, PRETEND = room(3, "cpu", 64), room(4, "simulated", 80)
MIXED = (BIG, SMALL, AMD, CPU, PRETEND)


@pytest.mark.parametrize(
    ("engine", "rooms", "wanted", "chosen"),
    [
        ("llamacpp", MIXED, "auto", [0]),
        ("llamacpp", MIXED, 1, [0]),
        ("llamacpp", MIXED, 2, [0, 2]),
        ("llamacpp", MIXED, 3, [0, 2, 1]),
        ("llamacpp", (CPU, PRETEND), "auto", [3]),
        ("llamacpp", (CPU, SMALL), "auto", [1]),
        ("llamacpp", MIXED, [1], [1]),
        ("llamacpp", MIXED, [3, 0], [3, 0]),
        ("llamacpp", (room(1, "cuda", 8), room(0, "cuda", 8)), "auto", [0]),
        ("simulated", MIXED, "auto", [4]),
        ("simulated", MIXED, [0], [0]),
        ("simulated", (BIG, CPU), "auto", [3]),
    ],
)
def test_the_most_room_wins_and_gpus_go_before_the_cpu(
    engine: str, rooms: tuple[Room, ...], wanted: Wish, chosen: list[int]
) -> None:
    assert [device.index for device in choose_devices(engine, rooms, wanted)] == chosen


@pytest.mark.parametrize(
    ("engine", "rooms", "wanted", "said"),
    [
        ("llamacpp", (), "auto", "1 devices were asked for; engine 'llamacpp' can use 0 here"),
        ("llamacpp", (PRETEND,), "auto", "can use 0 here"),
        ("llamacpp", MIXED, 4, "4 devices were asked for; engine 'llamacpp' can use 3 here"),
        ("llamacpp", (CPU,), 2, "can use 1 here"),
        ("simulated", MIXED, 2, "can use 1 here"),
        ("llamacpp", MIXED, [9], "devices [9] were asked for; engine 'llamacpp' can use 0, 1, 2, 3 here"),
        ("llamacpp", MIXED, [0, 9], "devices [0, 9]"),
        ("llamacpp", MIXED, [4], "devices [4]"),
        ("llamacpp", MIXED, [0, 0], "devices [0, 0]"),
        ("llamacpp", MIXED, [], "devices []"),
        ("llamacpp", (PRETEND,), [4], "can use none here"),
    ],
)
def test_devices_that_the_node_does_not_have_are_refused(
    engine: str, rooms: tuple[Room, ...], wanted: Wish, said: str
) -> None:
    with pytest.raises(NoFeasibleNode) as caught:
        choose_devices(engine, rooms, wanted)

    assert said in str(caught.value)
    assert caught.value.should_retry is False


ROOMS = st.lists(
    st.builds(
        Room,
        index=st.integers(0, 9),
        kind=st.sampled_from(["cuda", "rocm", "cpu", "simulated"]),
        name=st.just("device"),
        free_bytes=st.integers(-GIB, 8 * GIB),
    ),
    unique_by=lambda room: room.index,
    max_size=6,
)


@settings(deadline=None)
@given(ROOMS, st.sampled_from(["auto", 1, 2, 3]), st.randoms())
def test_the_order_of_the_devices_does_not_matter(rooms: list[Room], wanted: Wish, random: object) -> None:
    shuffled = list(rooms)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def choice(of: list[Room]) -> tuple[Room, ...] | str:
        try:
            return choose_devices("llamacpp", of, wanted)
        except NoFeasibleNode as error:
            return str(error)

    assert choice(rooms) == choice(shuffled)


@settings(deadline=None)
@given(ROOMS, st.sampled_from(["auto", 1, 2, 3]))
def test_a_choice_is_of_one_sort_and_never_simulated_for_a_real_engine(rooms: list[Room], wanted: Wish) -> None:
    try:
        chosen = choose_devices("llamacpp", rooms, wanted)
    except NoFeasibleNode:
        return

    kinds = {device.kind for device in chosen}
    assert kinds <= {"cuda", "rocm"} or kinds == {"cpu"}
    assert len(set(chosen)) == (1 if wanted == "auto" else wanted)
    passed_over = [
        r for r in rooms if r not in chosen and (r.kind == "cpu") == (kinds == {"cpu"}) and r.kind != "simulated"
    ]
    assert all(r.free_bytes <= min(c.free_bytes for c in chosen) for r in passed_over)


@pytest.mark.parametrize(
    ("needed", "rooms"),
    [
        ({}, (BIG,)),
        ({0: 24 * GIB - FLOOR_BYTES}, (BIG,)),
        ({0: 20 * GIB, 1: 7 * GIB}, (BIG, SMALL)),
        ({0: 20 * GIB, 9: 99 * GIB}, (BIG,)),
    ],
)
def test_what_leaves_the_floor_free_fits(needed: dict[int, int], rooms: tuple[Room, ...]) -> None:
    check_fit("m", needed, rooms)


@pytest.mark.parametrize(
    ("needed", "rooms", "said"),
    [
        (
            {0: 24 * GIB - FLOOR_BYTES + 1},
            (BIG,),
            ["24321 MiB on cuda0 (device 0)", "24320 MiB can be used", "1 MiB are missing"],
        ),
        ({1: 10 * GIB}, (BIG, SMALL), ["10240 MiB on cuda1", "7936 MiB can be used", "2304 MiB are missing"]),
        ({0: 30 * GIB, 1: 10 * GIB}, (BIG, SMALL), ["cuda0 (device 0)", "; and 10240 MiB on cuda1 (device 1)"]),
        ({0: 1}, (room(0, "cuda", 0),), ["where 0 MiB can be used", "1 MiB are missing"]),
        ({0: GIB}, (room(0, "cuda", -3),), ["where 0 MiB can be used", "1024 MiB are missing"]),
    ],
)
def test_what_does_not_fit_is_told_what_is_missing_on_each_device(
    needed: dict[int, int], rooms: tuple[Room, ...], said: list[str]
) -> None:
    with pytest.raises(InsufficientMemory) as caught:
        check_fit("org/m", needed, rooms)

    assert str(caught.value).startswith("org/m needs ")
    assert all(part in str(caught.value) for part in said)
    assert caught.value.retry_after_seconds is not None


@settings(deadline=None)
@given(st.integers(0, 40 * GIB), st.integers(-GIB, 40 * GIB))
def test_a_model_fits_exactly_when_the_floor_stays_free(needed: int, free: int) -> None:
    fits = True
    try:
        check_fit("m", {0: needed}, (Room(0, "cuda", "gpu", free),))
    except InsufficientMemory:
        fits = False

    assert fits == (needed == 0 or needed + FLOOR_BYTES <= free)


@pytest.mark.parametrize(
    ("kinds", "chosen"), [((), 0), (("cuda", "cpu"), 0), (("cpu", "rocm"), 2), (("cpu",), 3), (("simulated", "cpu"), 3)]
)
def test_an_installation_that_cannot_drive_a_device_is_not_placed_on_it(kinds: tuple[str, ...], chosen: int) -> None:
    assert choose_devices("llamacpp", MIXED, "auto", kinds=kinds)[0].index == chosen


def test_a_device_below_the_floor_does_not_count_however_much_of_it_is_free() -> None:
    large = Room(0, "cuda", "large", 2 * GIB, total_bytes=24 * GIB)
    small = Room(1, "cuda", "small", 8 * GIB, total_bytes=8 * GIB)

    assert choose_devices("llamacpp", (large, small), 1, floor_bytes=16 * GIB) == (large,)
    with pytest.raises(NoFeasibleNode, match="2 devices of at least 16384 MiB"):
        choose_devices("llamacpp", (large, small), 2, floor_bytes=16 * GIB)


def gpus(*totals_gib: float, kind: str = "cuda") -> tuple[Room, ...]:
    return tuple(Room(i, kind, f"{kind}{i}", 0, i, int(gib * GIB)) for i, gib in enumerate(totals_gib))


def where(*rooms: Room, **changed: Any) -> NodeView:
    return NodeView("a", "http://a", True, rooms=rooms, **changed)


def gib(*each: float) -> Need:
    return Need(tuple(int(share * GIB) for share in each))


QWEN = ModelSpec(id="m/m")


@pytest.mark.parametrize(
    ("spec", "rooms", "need", "devices", "shares"),
    [
        (QWEN, gpus(24), gib(20), {0}, gib(20)),
        (QWEN, gpus(24, 24), gib(20), {0, 1}, gib(20)),
        (QWEN, gpus(24, 24), gib(46), {0, 1}, gib(23, 23)),
        (QWEN, gpus(24, 24, 24, 24), gib(48), {0, 1, 2, 3}, gib(16, 16, 16)),
        (QWEN, gpus(48, 24), gib(40), {0, 1}, gib(40)),
        (QWEN, gpus(24, 24), gib(20, 10), {0, 1}, gib(20, 10)),
        (QWEN, gpus(8, 24), gib(7, 20), {0, 1}, gib(7, 20)),
        (QWEN, gpus(48, 24), gib(20, 20), {0, 1}, gib(40)),
        (ModelSpec(id="m/m", devices=2), gpus(48, 24), gib(40), {0, 1}, gib(20, 20)),
        (ModelSpec(id="m/m", min_devices=2), gpus(48, 48), gib(4), {0, 1}, gib(2, 2)),
        (ModelSpec(id="m/m", min_device_memory="40GiB"), gpus(48, 24), gib(4), {0}, gib(4)),
        (QWEN, (CPU, *gpus(24)), gib(20), {0}, gib(20)),
        (QWEN, gpus(24), UNKNOWN, {0}, ()),
    ],
)
def test_auto_takes_the_fewest_devices_whose_totals_hold_a_share_each(
    spec: ModelSpec, rooms: tuple[Room, ...], need: Need, devices: set[int], shares: Need | tuple[()]
) -> None:
    sets = device_sets(spec, where(*rooms), need)

    assert {room.index for room in sets.rooms} == devices
    assert sets.shares == (shares.bytes_each if isinstance(shares, Need) else shares)
    assert sets.count == max(1, len(sets.shares))


@pytest.mark.parametrize(
    ("spec", "rooms", "need", "said"),
    [
        (QWEN, gpus(24), gib(24), ["m/m needs 24576 MiB on one device", "24320 MiB can be used at best"]),
        (QWEN, gpus(24, 24), gib(48), ["needs 49152 MiB over 2 devices, 24576 MiB on one", "24320, 24320 MiB"]),
        (ModelSpec(id="m/m", devices=1), gpus(24, 24), gib(30), ["30720 MiB on one device", "here 24320 MiB"]),
        (ModelSpec(id="m/m", devices=2), gpus(24), gib(30), ["2 devices were asked for", "can use 1 here"]),
        (QWEN, gpus(80, kind="simulated"), gib(4), ["can use 0 here"]),
        (ModelSpec(id="m/m", min_device_memory="40GiB"), gpus(24), UNKNOWN, ["1 devices of at least 40960 MiB"]),
    ],
)
def test_what_the_totals_never_hold_is_refused_with_the_numbers(
    spec: ModelSpec, rooms: tuple[Room, ...], need: Need, said: list[str]
) -> None:
    with pytest.raises(NoFeasibleNode) as caught:
        device_sets(spec, where(*rooms), need)

    assert all(part in str(caught.value) for part in said)


def test_the_largest_share_goes_to_the_roomiest_device() -> None:
    sets = DeviceSets(gpus(8, 24, 16), 2, (7 * GIB, 20 * GIB))

    rooms = sets.roomiest({0: 8 * GIB, 1: 24 * GIB, 2: 16 * GIB})

    assert rooms is not None
    assert [room.index for room in rooms] == [2, 1]
    assert sets.roomiest({0: 8 * GIB, 1: 19 * GIB, 2: 16 * GIB}) is None


def test_every_set_that_fits_is_looked_at_once() -> None:
    bytes_ = dict.fromkeys(range(8), 10)

    assert len(list(DeviceSets(gpus(*[1] * 8), 4, (10,) * 4).within(bytes_))) == 70
    assert len(list(DeviceSets(gpus(*[1] * 8), 2, (10, 5)).within(bytes_))) == 56
    assert len(list(DeviceSets(gpus(*[1] * 16), 8, (10,) * 8).within(dict.fromkeys(range(16), 10)))) == SETS_TRIED


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_there_is_a_roomiest_set_exactly_when_any_order_of_devices_fits(free: list[int], shares: list[int]) -> None:
    bytes_ = dict(enumerate(free))
    sets = DeviceSets(gpus(*free), len(shares), tuple(shares))

    fitting = [
        order
        for order in permutations(range(len(free)), len(shares))
        if all(bytes_[index] >= share for index, share in zip(order, shares, strict=True))
    ]

    found = sets.roomiest(bytes_)
    assert (found is not None) == bool(fitting)
    assert found is None or tuple(room.index for room in found) in fitting
