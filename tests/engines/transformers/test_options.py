"""What a spec may set, and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from cortex.engines.base import LoadError
from cortex.engines.transformers.options import batch_of, ranks_of, read_options, threads_of
from cortex.wire.engine_api import Device, EngineSpec

CPU = Device(0, "cpu", "cpu", 8 << 30)
GPUS = tuple(Device(index, "cuda", "gpu", 8 << 30) for index in range(2))


def spec(devices: tuple[Device, ...] = (CPU,), **options: Any) -> EngineSpec:
    return EngineSpec(model="m", engine="transformers", path="/m", devices=devices, options=options)


def ranks(devices: tuple[Device, ...], **options: Any) -> int:
    asked = spec(devices, **options)
    return ranks_of(asked, read_options(asked))


def test_there_is_a_rank_a_device() -> None:
    assert [ranks((CPU,)), ranks(GPUS), ranks((CPU, CPU, CPU))] == [1, 2, 3]


def test_a_cpu_takes_as_many_ranks_as_are_asked_for() -> None:
    assert ranks((CPU,), ranks=3) == 3


def test_ranks_do_not_share_a_gpu() -> None:
    with pytest.raises(LoadError, match="each rank has a GPU of its own"):
        ranks(GPUS, ranks=4)


def test_every_slot_has_room_in_a_step() -> None:
    asked = spec(slots=8, batch=4)

    assert batch_of(asked, read_options(asked)) == 16


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(9)))

    assert [threads_of(read_options(spec()), n) for n in (1, 2, 20)] == [8, 4, 1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"slots": 0}, "slots"),
        ({"batch": 1}, "batch"),
        ({"dtype": "int3"}, "dtype"),
        ({"attention": "magic"}, "attention"),
        ({"step_seconds": 0}, "step_seconds"),
        ({"warp": 1}, "warp"),
        ({"prefix_cache": 1}, "prefix_cache"),
    ],
)
def test_an_option_that_cannot_be_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(LoadError, match=rf"options\.{named}"):
        read_options(spec(**options))
