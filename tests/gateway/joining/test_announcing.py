from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from cortex.gateway.joining.announcing import Announcer, addresses_of, service_info
from cortex.gateway.joining.authority import AUTHORITY_FILE
from cortex.gateway.joining.joining import DIRECTORY, Joining
from cortex.gateway.nodes import Nodes
from cortex.wire.joining import InviteOrder

pytestmark = pytest.mark.anyio


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched(Announcer):
    """One that says when it waits for the invitations to end, and when they have."""

    def __init__(self, joining: Joining, clock: Clock) -> None:
        super().__init__(joining, "127.0.0.1", 31313, clock)
        self.waits, self.over = anyio.Event(), anyio.Event()

    async def _until_nobody_is_invited(self) -> None:
        self.waits.set()
        await super()._until_nobody_is_invited()
        self.over.set()


def test_what_listens_on_one_address_is_announced_there_alone() -> None:
    assert addresses_of("127.0.0.1") == ["127.0.0.1"]


def test_what_listens_everywhere_is_announced_where_others_reach_it() -> None:
    assert not any(ip_address(address).is_loopback for address in addresses_of("0.0.0.0"))


def test_the_announcement_has_a_name_of_its_own_and_the_fingerprint() -> None:
    info = service_info("beast.lan", ["10.0.0.1"], 31313, bytes.fromhex("be333702") + bytes(28))

    assert info.name == "beast-be333702._cortex._tcp.local."
    assert info.server == "beast-be333702.local.", "the machine's own name is left to the machine"
    assert info.properties == {b"fingerprint": b"be333702" + b"0" * 56}


async def test_who_cannot_be_announced_says_so_once_and_can_be_joined_all_the_same(
    tmp_path: Path, anyio_backend: object
) -> None:
    clock = Clock()
    joining = Joining(tmp_path, Nodes([], tmp_path), clock)
    announcer = Watched(joining, clock)
    joining.invite(InviteOrder(seconds=60))
    (tmp_path / DIRECTORY / AUTHORITY_FILE).unlink()
    with capture_logs() as logs, anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(announcer.run)
            await announcer.waits.wait()
            assert not announcer.over.is_set(), "it does not try again and again"
            clock.now += 61
            former, joining.changed = joining.changed, asyncio.Event()
            former.set()
            await announcer.over.wait()
            tasks.cancel_scope.cancel()

    assert [log["event"] for log in logs] == ["not_announced"]
