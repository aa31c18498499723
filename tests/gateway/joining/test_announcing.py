from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from cortex.gateway.joining.announcing import Announcer, addresses_of, service_info
from cortex.gateway.joining.joining import Joining
from cortex.gateway.nodes import Nodes
from cortex.wire.joining import InviteOrder

pytestmark = pytest.mark.anyio


class Announced(Announcer):
    """One that says when the announcement ends."""

    def __init__(self, joining: Joining) -> None:
        super().__init__(joining, "no.such.host.invalid", 31313)
        self.rounds = 0
        self.over = anyio.Event()

    async def _until_nobody_is_invited(self) -> None:
        await super()._until_nobody_is_invited()
        self.rounds += 1
        self.over.set()


def test_what_listens_on_one_address_is_announced_there_alone() -> None:
    assert addresses_of("127.0.0.1") == ["127.0.0.1"]
    assert addresses_of("localhost")[0] in ("127.0.0.1", "::1")


def test_what_listens_everywhere_is_announced_where_others_reach_it() -> None:
    assert not any(ip_address(address).is_loopback for address in addresses_of("0.0.0.0"))


def test_the_announcement_has_a_name_of_its_own_and_the_fingerprint() -> None:
    info = service_info("beast.lan", ["10.0.0.1"], 31313, bytes.fromhex("be333702") + bytes(28))

    assert info.name == "beast-be333702._cortex._tcp.local."
    assert info.server == "beast-be333702.local.", "the machine's own name is left to the machine"
    assert info.properties == {b"fingerprint": b"be333702" + b"0" * 56}


async def test_who_cannot_be_announced_can_be_joined_all_the_same(tmp_path: Path, anyio_backend: object) -> None:
    """It says so, and waits for the invitation to end rather than try for ever."""
    joining = Joining(tmp_path, Nodes([], tmp_path))
    announcer = Announced(joining)
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(announcer.run)
            await anyio.lowlevel.checkpoint()
            joining.invite(InviteOrder(seconds=0.05))
            with anyio.fail_after(10):
                await announcer.over.wait()
            tasks.cancel_scope.cancel()

    assert [log["event"] for log in logs if log["event"] == "not_announced"] == ["not_announced"]
    assert announcer.rounds == 1
