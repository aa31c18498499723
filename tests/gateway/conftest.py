"""A fleet of fake nodes for each test, on the event loop that a gateway runs on."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from fake_fleet import FakeFleet


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def fleet(anyio_backend: object) -> AsyncGenerator[FakeFleet, None]:
    async with FakeFleet() as fleet:
        yield fleet
