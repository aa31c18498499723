from __future__ import annotations

from typing import Any

import pytest

from cortex.neuron.metrics import estimate_error
from cortex.wire.node_api import ModelInfo


def model(status: str = "ready", **memory: dict[int, int]) -> ModelInfo:
    fields: dict[str, Any] = {"id": "m", "engine": "e", "status": status, **memory}
    return ModelInfo(**fields)


@pytest.mark.parametrize(
    ("estimated", "peak", "ratio"),
    [
        ({0: 150}, {0: 100}, 0.5),
        ({0: 50}, {0: 100}, -0.5),
        ({0: 100, 1: 100}, {0: 150, 1: 50}, 0.0),
        ({0: 100}, {0: 100, 2: 900}, 0.0),
    ],
)
def test_the_error_of_an_estimate_is_its_share_of_what_was_measured(
    estimated: dict[int, int], peak: dict[int, int], ratio: float
) -> None:
    assert estimate_error(model(estimated_by_device=estimated, peak_by_device=peak)) == ratio


@pytest.mark.parametrize(
    ("status", "estimated", "peak"),
    [("loading", {0: 1}, {0: 1}), ("ready", {}, {0: 1}), ("ready", {0: 1}, {}), ("ready", {0: 1, 1: 1}, {0: 1})],
)
def test_what_was_not_measured_whole_has_no_error(status: str, estimated: dict[int, int], peak: dict[int, int]) -> None:
    assert estimate_error(model(status, estimated_by_device=estimated, peak_by_device=peak)) is None
