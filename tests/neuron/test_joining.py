from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from cortex.core.errors import ConfigError
from cortex.gateway.joining.authority import Authority
from cortex.neuron.joining import Attempt, accepted, attempt
from cortex.wire.joining import Joined, Token

NOW = datetime.now(UTC)
GATEWAY = "http://gateway:31313"


def authority_in(directory: Path) -> Authority:
    authority = Authority(directory)
    authority.establish(NOW)
    return authority


def tried_with(authority: Authority) -> Attempt:
    return attempt(Token("0f1e2d3c", bytes(32), authority.fingerprint), "attic", "10.0.0.2", 13131)


def answer(authority: Authority, tried: Attempt) -> Joined:
    issued = authority.issue(tried.request.csr, NOW)
    return Joined(name="attic", certificate=issued.certificate, authority=authority.certificate)


def test_the_secret_is_not_in_what_is_sent(tmp_path: Path) -> None:
    token = Token("0f1e2d3c", b"very secret secret of 32 bytes!!", bytes(32))
    sent = msgspec.json.encode(attempt(token, "attic", "10.0.0.2", 13131).request)

    assert token.secret not in sent
    assert str(token).split(".")[1].encode() not in sent


def test_the_answer_of_the_tokens_gateway_makes_an_identity(tmp_path: Path) -> None:
    authority = authority_in(tmp_path)
    tried = tried_with(authority)
    kept, identity = accepted(tried, answer(authority, tried), GATEWAY)

    assert (kept.name, kept.gateway, kept.host, kept.port) == ("attic", GATEWAY, "10.0.0.2", 13131)
    assert (identity.count(b"BEGIN PRIVATE KEY"), identity.count(b"BEGIN CERTIFICATE")) == (1, 1)


def test_another_gateway_that_answers_is_not_believed(tmp_path: Path) -> None:
    """It may have read the request on its way, and signed the node's key itself."""
    tried = tried_with(authority_in(tmp_path / "ours"))
    other = authority_in(tmp_path / "other")

    with pytest.raises(ConfigError, match="its fingerprint is another"):
        accepted(tried, answer(other, tried), GATEWAY)


def test_a_certificate_of_another_authority_under_the_right_one_is_not_believed(tmp_path: Path) -> None:
    ours, other = authority_in(tmp_path / "ours"), authority_in(tmp_path / "other")
    tried = tried_with(ours)
    mixed = msgspec.structs.replace(answer(other, tried), authority=ours.certificate)

    with pytest.raises(ConfigError, match="not believed"):
        accepted(tried, mixed, GATEWAY)


def test_a_certificate_for_another_key_is_not_believed(tmp_path: Path) -> None:
    ours = authority_in(tmp_path)
    tried = tried_with(ours)

    with pytest.raises(ConfigError, match="another key"):
        accepted(tried, answer(ours, tried_with(ours)), GATEWAY)


def test_nonsense_is_not_believed(tmp_path: Path) -> None:
    tried = tried_with(authority_in(tmp_path))

    with pytest.raises(ConfigError, match="not believed"):
        accepted(tried, Joined(name="attic", certificate="x", authority="y"), GATEWAY)
