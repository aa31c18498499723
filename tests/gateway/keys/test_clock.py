from __future__ import annotations

from cortex.gateway.keys.clock import steady_clock


def test_a_step_of_the_systems_clock_is_not_seen() -> None:
    wall, steady = iter([1000.0]), iter([5.0, 6.0, 8.5])
    clock = steady_clock(lambda: next(wall), lambda: next(steady))

    assert [clock(), clock()] == [1001.0, 1003.5]
