from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from cortex.core.errors import ConfigError
from cortex.neuron.identity import FILE, Identity, Kept, forget_identity, keep_identity, kept_identity, listen_host

KEPT = Kept(name="attic", gateway="http://g:1", host="10.0.0.2", port=13131, key_file="identity-1.pem", authority="a")


def at(host: str) -> Identity:
    return Identity(Path(), msgspec.structs.replace(KEPT, host=host))


def test_a_node_that_has_not_joined_has_no_identity(tmp_path: Path) -> None:
    assert kept_identity(tmp_path / "not" / "there") is None
    assert forget_identity(tmp_path / "not" / "there") is None


def test_an_identity_is_kept_for_this_user_alone_and_replaced_whole(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    keep_identity(directory, KEPT, b"first")
    keep_identity(directory, msgspec.structs.replace(KEPT, key_file="identity-2.pem", port=2), b"second")
    identity = kept_identity(directory)

    assert identity is not None
    assert (identity.port, identity.key_file.read_bytes()) == (2, b"second")
    assert sorted(file.name for file in directory.iterdir()) == ["identity-2.pem", FILE]
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}


def test_a_node_that_leaves_keeps_nothing(tmp_path: Path) -> None:
    keep_identity(tmp_path, KEPT, b"key")
    former = forget_identity(tmp_path)

    assert former is not None
    assert (former.gateway, list(tmp_path.iterdir())) == ("http://g:1", [])


@pytest.mark.parametrize("key", [None, b"not a key"])
def test_an_identity_that_cannot_be_used_stops_the_start_rather_than_serve_in_the_open(
    tmp_path: Path, key: bytes | None
) -> None:
    keep_identity(tmp_path, KEPT, key or b"")
    if key is None:
        (tmp_path / KEPT.key_file).unlink()
    identity = kept_identity(tmp_path)

    assert identity is not None
    with pytest.raises(ConfigError, match="join again with `neuron join`, or forget it"):
        identity.context()


@pytest.mark.parametrize(
    ("configured", "identity", "expected"),
    [
        (None, None, "127.0.0.1"),
        (None, at("127.0.0.1"), "127.0.0.1"),
        (None, at("10.0.0.2"), "0.0.0.0"),
        (None, at("attic.lan"), "0.0.0.0"),
        (None, at("fd00::2"), "::"),
        ("10.0.0.7", at("10.0.0.2"), "10.0.0.7"),
        ("127.0.0.1", at("10.0.0.2"), "127.0.0.1"),
    ],
)
def test_a_node_listens_as_configured_else_where_its_gateway_reaches_it(
    configured: str | None, identity: Identity | None, expected: str
) -> None:
    assert listen_host(configured, identity) == expected
