"""What a node that has joined is known by, and knows its gateway by: its key and certificate, and the authority's."""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec

from cortex.core.errors import ConfigError
from cortex.core.state_file import keep, keep_bytes, kept
from cortex.neuron.config import LOOPBACK
from cortex.serving.origin import is_loopback

FILE = "joined.json"


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`joined.json`: who this node is, where it told its gateway that it is, and which file has its key."""

    name: str
    gateway: str
    host: str
    port: int
    key_file: str
    authority: str


class Identity:
    """An identity in its *directory*."""

    def __init__(self, directory: Path, kept: Kept) -> None:
        self.name, self.gateway, self.host, self.port = kept.name, kept.gateway, kept.host, kept.port
        self.key_file, self._authority = directory / kept.key_file, kept.authority

    def context(self) -> ssl.SSLContext:
        """Return how to serve: by TLS, and only whoever shows the gateway's certificate. Raises ConfigError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED  # and OpenSSL asks that it be a client's, which no node's is
        try:
            context.load_verify_locations(cadata=self._authority)
            context.load_cert_chain(self.key_file)
        except (OSError, ValueError) as error:
            reason = f"{self.key_file}: {error}; join again with `neuron join`, or forget it with `neuron leave`"
            raise ConfigError(reason) from None
        return context


def kept_identity(directory: Path) -> Identity | None:
    """Return the identity in *directory*, None if the node has not joined. Raises ConfigError."""
    found = kept(directory / FILE, Kept, "which gateway was joined")
    return Identity(directory, found) if found is not None else None


def listen_host(configured: str | None, identity: Identity | None) -> str:
    """Return where to listen: as *configured*, else where the gateway that was joined reaches it, else on loopback."""
    if configured is not None:
        return configured
    if identity is None or is_loopback(identity.host):
        return LOOPBACK
    return "::" if ":" in identity.host else "0.0.0.0"


def keep_identity(directory: Path, new: Kept, key_and_certificate: bytes) -> None:
    """Put an identity in the place of the one in *directory*, whole or not at all. Raises ServiceError, ConfigError."""
    former = kept_identity(directory)
    keep_bytes(directory / new.key_file, key_and_certificate)
    keep(directory / FILE, new)
    if former is not None and former.key_file != directory / new.key_file:
        former.key_file.unlink(missing_ok=True)


def forget_identity(directory: Path) -> Identity | None:
    """Return the identity in *directory* after deleting it, None if there is none. Raises ConfigError."""
    former = kept_identity(directory)
    if former is not None:
        (directory / FILE).unlink(missing_ok=True)
        former.key_file.unlink(missing_ok=True)
    return former
