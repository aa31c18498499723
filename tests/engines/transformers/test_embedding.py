"""How vectors of tokens become one, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cortex.engines.base import LoadError  # noqa: E402
from cortex.engines.transformers.embedding import _parts, _pool, pooling_of  # noqa: E402
from cortex.engines.transformers.folder import Folder  # noqa: E402

pytestmark = pytest.mark.tp
HIDDEN = torch.tensor([[[1.0, 9.0], [3.0, 1.0], [50.0, 50.0]]])
MASK = torch.tensor([[1, 1, 0]])


def folder(modules: tuple[str, ...] = ("1_Pooling",), **pooling: Any) -> Folder:
    return Folder(Path("/m"), {}, "BertModel", {}, {}, modules, pooling)


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", [2.0, 5.0]), ("cls", [1.0, 9.0]), ("max", [3.0, 9.0]), ("last", [3.0, 1.0])]
)
def test_what_fills_up_a_batch_does_not_count(how: str, expected: list[float]) -> None:
    assert _pool(HIDDEN, MASK, how).tolist() == [expected]


def test_pooling_is_as_the_folder_says() -> None:
    assert pooling_of(folder(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)) == "cls"
    assert pooling_of(folder()) == "mean"


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(LoadError, match="weightedmean"):
        pooling_of(folder(pooling_mode_weightedmean_tokens=True))
    with pytest.raises(LoadError, match="2_Dense"):
        pooling_of(folder(("1_Pooling", "2_Dense")))


def test_inputs_are_computed_in_order_and_not_too_many_at_once() -> None:
    inputs = [[1] * size for size in (3, 3, 9, 1, 1)]

    parts = _parts(inputs, 9)

    assert [each for part in parts for each in part] == inputs
    assert [[len(each) for each in part] for part in parts] == [[3, 3], [9], [1, 1]]
