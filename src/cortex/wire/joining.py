"""How a node joins a fleet: the invitation that is carried to it by hand, and what is said over the wire for it.

An invitation's secret is the seed of an Ed25519 key: the gateway keeps the public half, and the node signs what it asks
with the private one. So the secret is never sent, and whoever stands between can neither use it nor change what is
asked. The fingerprint is that of the gateway's certificate authority: whoever else answers is found out.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from cortex.core.errors import ConfigError

INVITES, JOIN = "/fleet/invites", "/fleet/join"
SERVICE_TYPE = "_cortex._tcp.local."  # of a gateway's announcements over mDNS
FINGERPRINT_KEY = "fingerprint"  # there, in hexadecimal
SECRET_BYTES, FINGERPRINT_BYTES, SIGNATURE_BYTES = 32, 32, 64
LONGEST_INVITE_SECONDS = 7 * 86_400

NodeName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
_InviteId = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}\Z")]
_Pem = Annotated[str, Meta(max_length=16_384)]


class Token(NamedTuple):
    """An invitation as it is carried by hand; `str` of it is what is copied and pasted."""

    invite: str
    secret: bytes
    fingerprint: bytes

    def __str__(self) -> str:
        return f"{self.invite}.{text_of(self.secret)}.{text_of(self.fingerprint)}"


class InviteOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /fleet/invites`: for how long the invitation holds, and the only name that it is for, if any."""

    seconds: Annotated[float, Meta(gt=0, le=LONGEST_INVITE_SECONDS)] = 900.0
    name: NodeName | None = None


class Invited(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: the token, which is told this once, and when it expires, in seconds since 1970."""

    token: str
    expires_at: float
    fingerprint: str


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /fleet/join`: *host* and *port* are where the gateway is to reach the node, *csr* is PEM."""

    invite: _InviteId
    name: NodeName
    host: Annotated[str, Meta(min_length=1, max_length=253)]
    port: Annotated[int, Meta(ge=1, le=65535)]
    csr: _Pem
    signature: Annotated[str, Meta(max_length=86)] = ""
    kind: Literal["cortex-join-1"] = "cortex-join-1"

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over: all fields but itself, in one order, each framed."""
        return msgspec.json.encode([self.kind, self.invite, self.name, self.host, self.port, self.csr])


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: the node's certificate and the authority's, both PEM."""

    name: str
    certificate: _Pem
    authority: _Pem


def parse_token(text: str) -> Token:
    """Return the token that *text* is. Raises ConfigError, which never has the token in it."""
    parts = text.strip().split(".")
    secret, fingerprint = (bytes_of(part) for part in parts[1:]) if len(parts) == 3 else (b"", b"")
    is_id = len(parts[0]) == 8 and set(parts[0]) <= set("0123456789abcdef")
    if not is_id or len(secret) != SECRET_BYTES or len(fingerprint) != FINGERPRINT_BYTES:
        raise ConfigError("that is not a whole token: copy all of what `cortex node invite` printed, with both dots")
    return Token(parts[0], secret, fingerprint)


def text_of(value: bytes) -> str:
    """Return *value* in base64 as URLs have it, without padding."""
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def bytes_of(text: str) -> bytes:
    """Return what `text_of` made *text* of; nothing if it made no such text."""
    try:
        value = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:
        return b""
    return value if text_of(value) == text else b""


def shown(fingerprint: bytes) -> str:
    """Return *fingerprint* as people compare it: the SHA-256 in groups of four hexadecimal digits."""
    digits = fingerprint.hex()
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))
