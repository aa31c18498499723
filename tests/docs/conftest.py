"""The stack that the commands of the pages are run against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docs.stack import MODELS, NODE, Stack
from harness import Fleet, until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    fleet = Fleet(tmp_path_factory.mktemp("stack"))
    try:
        nodes = {name: fleet.neuron(name, config=NODE).port for name in ("beast", "cupboard")}
        gateway = fleet.gateway(MODELS, nodes, name="cortex")
        until("both nodes are seen", lambda: gateway.get("/health")["nodes"]["healthy"] == 2)
        yield Stack(fleet, {"31313": gateway.port, "13131": nodes["beast"]})
    finally:
        fleet.close()
