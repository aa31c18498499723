"""Over real mDNS, on the loopback interface alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from zeroconf import Zeroconf

from cortex.cli.failures import Failure
from cortex.cli.finding import Found, find_gateway, reachable
from cortex.gateway.joining.announcing import service_info
from harness import free_port

FINGERPRINT = bytes(range(32))
LOOPBACK = ["127.0.0.1"]


@pytest.fixture(scope="module")
def announced() -> Iterator[None]:
    zeroconf = Zeroconf(interfaces=LOOPBACK)
    zeroconf.register_service(service_info("beast", LOOPBACK, 31313, FINGERPRINT))
    yield
    zeroconf.unregister_all_services()
    zeroconf.close()


def test_the_gateway_with_the_fingerprint_is_found(announced: None) -> None:
    found = find_gateway(FINGERPRINT, LOOPBACK)

    assert found == Found(f"beast-{FINGERPRINT.hex()[:8]}", ("127.0.0.1",), 31313, FINGERPRINT)


def test_others_are_named_with_their_fingerprints(announced: None) -> None:
    with pytest.raises(Failure, match=r"beast-00010203 has 0001 0203 0405.*name its address"):
        find_gateway(bytes(32), LOOPBACK, seconds=1.0)


def test_of_several_addresses_the_first_that_takes_connections_is_the_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert reachable(Found("beast", ("127.0.0.2", "127.0.0.1"), port, b"")) == f"http://127.0.0.1:{port}"


def test_a_gateway_that_takes_no_connections_is_named_with_its_addresses() -> None:
    with pytest.raises(Failure, match="takes connections at none of them"):
        reachable(Found("beast", ("127.0.0.1",), free_port(), b""))
