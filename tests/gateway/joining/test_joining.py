from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cortex.core.errors import AuthenticationFailed, BadRequest, ConfigError, RateLimited
from cortex.gateway.config import NeuronAddress
from cortex.gateway.joining.attempts import MOST_OF_ONE
from cortex.gateway.joining.authority import AUTHORITY_FILE, host_name
from cortex.gateway.joining.joining import DIRECTORY, Joining
from cortex.gateway.nodes import Nodes
from cortex.neuron.joining import accepted, attempt
from cortex.wire.joining import InviteOrder, JoinRequest, Token, parse_token

PEER = "10.0.0.2"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """A gateway's nodes and its joining, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.clock = directory, Clock()
        self.start()

    def start(self) -> None:
        self.nodes = Nodes([NeuronAddress(name="static", endpoint="http://static:13131")], self.directory)
        self.joining = Joining(self.directory, self.nodes, self.clock)

    def token(self, name: str | None = None) -> Token:
        return parse_token(self.joining.invite(InviteOrder(name=name)).token)

    def admit(self, token: Token, name: str = "attic", host: str = PEER) -> JoinRequest:
        tried = attempt(token, name, host, 13131)
        accepted(tried, self.joining.admit(tried.request, PEER), "http://gateway")
        self.joining.follow(self.nodes.joined)
        return tried.request


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_before_anybody_is_invited_nothing_is_kept(door: Door) -> None:
    assert list(door.directory.iterdir()) == []


def test_who_was_invited_is_a_node_and_is_connected_to_by_its_certificate(door: Door) -> None:
    door.admit(door.token())
    (joined,) = door.nodes.joined
    secured = door.joining.secured[PEER, 13131]

    assert (joined.name, joined.endpoint) == ("attic", f"https://{PEER}:13131")
    assert [node.name for node in door.nodes.addresses] == ["static", "attic"]
    assert (secured.name, secured.context is not None) == (host_name(joined.serial), True)
    assert ("static", 13131) not in door.joining.secured


def test_a_gateway_that_starts_again_knows_who_joined(door: Door) -> None:
    door.admit(door.token())
    before = door.joining.secured[PEER, 13131].name
    door.start()

    assert door.joining.secured[PEER, 13131].name == before


def test_a_gateway_that_lost_its_key_does_not_start_as_if_nobody_had_joined(door: Door) -> None:
    door.admit(door.token())
    (door.directory / DIRECTORY / AUTHORITY_FILE).unlink()

    with pytest.raises(ConfigError, match="joined nodes know this gateway by it"):
        door.start()


def test_a_node_that_was_removed_is_connected_to_no_more_and_may_be_invited_again(door: Door) -> None:
    door.admit(door.token())
    first = door.joining.secured[PEER, 13131].name
    door.nodes.remove("attic")
    door.joining.follow(door.nodes.joined)
    assert door.joining.secured == {}

    door.admit(door.token("attic"))
    assert door.joining.secured[PEER, 13131].name != first, "the certificate that was revoked stays so"


def test_a_token_is_good_once(door: Door) -> None:
    token = door.token()
    door.admit(token)

    with pytest.raises(AuthenticationFailed, match="has been used, by 'attic'"):
        door.admit(token, "cellar", "10.0.0.3")


@pytest.mark.parametrize(
    ("name", "host", "reason"),
    [
        ("static", PEER, "remove it first, or choose another name"),
        ("attic", "static", "is node 'static' already"),
        ("attic", "no/host", "expected http://host:port"),
    ],
)
def test_a_refused_name_or_address_costs_no_token(door: Door, name: str, host: str, reason: str) -> None:
    token = door.token()

    with pytest.raises(BadRequest, match=reason):
        door.admit(token, name, host)
    door.admit(token)


def test_a_request_that_is_no_certificate_request_costs_no_token(door: Door) -> None:
    token = door.token()
    request = attempt(token, "attic", PEER, 13131).request
    broken = msgspec.structs.replace(request, csr="nonsense")

    with pytest.raises(AuthenticationFailed):
        door.joining.admit(broken, PEER)
    door.admit(token)


def test_nobody_is_invited_under_the_name_of_another(door: Door) -> None:
    with pytest.raises(BadRequest, match="remove it first"):
        door.token("static")


def test_guessing_is_bounded_and_costs_others_nothing(door: Door) -> None:
    token = door.token()
    guess = attempt(token._replace(secret=bytes(32)), "attic", PEER, 13131).request
    for _ in range(MOST_OF_ONE):
        with pytest.raises(AuthenticationFailed):
            door.joining.admit(guess, "10.6.6.6")

    with pytest.raises(RateLimited):
        door.joining.admit(guess, "10.6.6.6")
    door.admit(token)


def test_an_invitation_is_open_until_it_is_used_or_expires(door: Door) -> None:
    assert door.joining.open_until == 0.0

    token = door.token()
    assert door.joining.open_until == door.clock.now + 900
    door.admit(token)
    assert door.joining.open_until == 0.0
