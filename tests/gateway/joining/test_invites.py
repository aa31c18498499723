from __future__ import annotations

from pathlib import Path

import pytest

from cortex.core.errors import AuthenticationFailed, ConfigError
from cortex.gateway.joining.invites import FILE, REMEMBERED_SECONDS, Invites
from cortex.neuron.joining import attempt
from cortex.wire.joining import JoinRequest, Token, text_of

NOW = 1000.0


def asked(token: Token, name: str = "attic") -> JoinRequest:
    return attempt(token, name, "10.0.0.2", 13131).request


def invited(invites: Invites, seconds: float = 60.0, name: str | None = None) -> Token:
    invite, secret = invites.make(NOW, seconds, name)
    return Token(invite.id, secret, bytes(32))


def refusal(invites: Invites, request: JoinRequest, now: float = NOW) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        invites.check(request, now)
    assert caught.value.code == "invitation_refused"
    return str(caught.value)


def test_an_invitation_lets_in_who_holds_its_secret_also_after_a_restart(tmp_path: Path) -> None:
    token = invited(Invites(tmp_path))

    assert Invites(tmp_path).check(asked(token), NOW).id == token.invite


def test_what_is_kept_lets_nobody_in(tmp_path: Path) -> None:
    token = invited(Invites(tmp_path))
    content = (tmp_path / FILE).read_text()

    assert text_of(token.secret) not in content
    assert token.secret.hex() not in content


def test_another_secret_is_refused_and_hears_nothing_of_the_invitation(tmp_path: Path) -> None:
    invites = Invites(tmp_path)
    token = invited(invites)
    guessed = asked(token._replace(secret=bytes(32)))
    unknown = asked(token._replace(invite="00000000"))

    assert refusal(invites, guessed) == refusal(invites, unknown, NOW + 61)
    assert "not one of this gateway's" in refusal(invites, guessed)


@pytest.mark.parametrize("signature", ["", "AAAA", "A" * 86])
def test_a_request_that_is_not_signed_is_refused(tmp_path: Path, signature: str) -> None:
    invites = Invites(tmp_path)
    fields = {name: getattr(asked(invited(invites)), name) for name in ("invite", "name", "host", "port", "csr")}

    refusal(invites, JoinRequest(**fields, signature=signature))


def test_a_request_that_was_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    invites = Invites(tmp_path)
    request = asked(invited(invites))
    changed = JoinRequest(
        invite=request.invite,
        name=request.name,
        host="10.6.6.6",
        port=request.port,
        csr=request.csr,
        signature=request.signature,
    )

    refusal(invites, changed)


def test_an_expired_invitation_says_so(tmp_path: Path) -> None:
    invites = Invites(tmp_path)

    assert "expired 3 s ago" in refusal(invites, asked(invited(invites)), NOW + 63)


def test_an_invitation_is_good_for_one_node(tmp_path: Path) -> None:
    invites = Invites(tmp_path)
    request = asked(invited(invites))
    invites.used(invites.check(request, NOW), "attic")

    assert "has been used, by 'attic'" in refusal(Invites(tmp_path), request)
    assert invites.open(NOW) == ()


def test_an_invitation_for_a_name_is_for_no_other(tmp_path: Path) -> None:
    invites = Invites(tmp_path)
    token = invited(invites, name="cellar")

    assert "for a node called 'cellar', not 'attic'" in refusal(invites, asked(token))
    assert invites.check(asked(token, "cellar"), NOW).name == "cellar"


def test_without_any_invitation_one_hears_how_to_make_one(tmp_path: Path) -> None:
    assert "cortex node invite" in refusal(Invites(tmp_path), asked(Token("00000000", bytes(32), bytes(32))))


def test_invitations_that_expired_long_ago_are_forgotten(tmp_path: Path) -> None:
    invites = Invites(tmp_path)
    old = invited(invites)
    invites.make(NOW + REMEMBERED_SECONDS + 61, 60)

    assert old.invite not in (tmp_path / FILE).read_text()


def test_a_file_that_cannot_be_understood_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")

    with pytest.raises(ConfigError, match="which nodes are invited"):
        Invites(tmp_path)
