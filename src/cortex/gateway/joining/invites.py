"""Which invitations there are: kept by the public half of their secret, for one use, until they expire."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from cortex.core.errors import AuthenticationFailed
from cortex.core.state_file import keep, kept
from cortex.wire.joining import SECRET_BYTES, SIGNATURE_BYTES, JoinRequest, bytes_of, text_of

FILE = "invites.json"
REMEMBERED_SECONDS = 86_400.0  # after an invitation expired, so that whoever is late hears why
MOST_OPEN = 1000


class Invite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An invitation; `used_by` is the name of the node that came of it, `name` the only one that it is for."""

    id: str
    public_key: str
    expires_at: float
    name: str | None = None
    used_by: str | None = None


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    invites: tuple[Invite, ...] = ()


class Invites:
    """Owns the invitations, in a file of *directory*; none is given out, or taken for used, before it is on disk."""

    def __init__(self, directory: Path) -> None:
        """Read the file, if there is one. Raises ConfigError when it cannot be understood."""
        self._file = directory / FILE
        self._state = kept(self._file, _State, "which nodes are invited") or _State()

    def open(self, now: float) -> tuple[Invite, ...]:
        """Return the invitations that may still be used at *now*."""
        return tuple(invite for invite in self._state.invites if invite.used_by is None and invite.expires_at > now)

    def make(self, now: float, seconds: float, name: str | None = None) -> tuple[Invite, bytes]:
        """Return a new invitation and its secret, which is not kept. Raises ServiceError when it cannot be kept."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        secret = secrets.token_bytes(SECRET_BYTES)
        public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        invite = Invite(id=secrets.token_hex(4), public_key=text_of(public), expires_at=now + seconds, name=name)
        remembered = [other for other in self._state.invites if other.expires_at + REMEMBERED_SECONDS > now]
        self._keep((*remembered[-MOST_OPEN:], invite))
        return invite, secret

    def check(self, asked: JoinRequest, now: float) -> Invite:
        """Return the invitation that *asked* is signed with. Raises AuthenticationFailed; only its holder hears why."""
        if not self._state.invites:
            raise refusal("nobody is invited to this gateway; `cortex node invite` makes a token")
        invite = next((invite for invite in self._state.invites if invite.id == asked.invite), None)
        if invite is None or not _is_signed(asked, invite):
            raise refusal("the token is not one of this gateway's, or too old to be remembered; ask for a new one")
        if invite.used_by is not None:
            raise refusal(f"the token has been used, by {invite.used_by!r}; each is for one node: ask for a new one")
        if invite.expires_at <= now:
            raise refusal(f"the token expired {now - invite.expires_at:.0f} s ago; ask for a new one")
        if invite.name not in (None, asked.name):
            raise refusal(f"the token is for a node called {invite.name!r}, not {asked.name!r}")
        return invite

    def used(self, invite: Invite, name: str) -> None:
        """Have *invite* be used up by the node called *name*. Raises ServiceError when it cannot be kept."""
        spent = msgspec.structs.replace(invite, used_by=name)
        self._keep(tuple(spent if other.id == invite.id else other for other in self._state.invites))

    def _keep(self, invites: tuple[Invite, ...]) -> None:
        state = _State(invites)
        keep(self._file, state)
        self._state = state


def refusal(reason: str) -> AuthenticationFailed:
    """Return why nobody is let in by that token."""
    return AuthenticationFailed(reason, code="invitation_refused")


def _is_signed(asked: JoinRequest, invite: Invite) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    signature = bytes_of(asked.signature)
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes_of(invite.public_key)).verify(signature, asked.signed_bytes)
    except InvalidSignature:
        return False
    return True
