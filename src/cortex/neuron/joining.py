"""Join a fleet: make a key, ask for its certificate under an invitation, and believe no answer but that gateway's."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from hashlib import sha256

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cortex.core.errors import ConfigError
from cortex.neuron.identity import Kept
from cortex.wire.joining import Joined, JoinRequest, Token, text_of


@dataclass(frozen=True, slots=True)
class Attempt:
    """A node that asks to join: its key, and the request that is signed with its token."""

    token: Token
    key: EllipticCurvePrivateKey
    request: JoinRequest


def attempt(token: Token, name: str, host: str, port: int) -> Attempt:
    """Return what the node *name*, which its gateway is to reach at *host* and *port*, asks with *token*."""
    key = generate_private_key(SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    pem = csr.public_bytes(Encoding.PEM).decode()
    unsigned = JoinRequest(invite=token.invite, name=name, host=host, port=port, csr=pem)
    signature = Ed25519PrivateKey.from_private_bytes(token.secret).sign(unsigned.signed_bytes)
    return Attempt(token, key, msgspec.structs.replace(unsigned, signature=text_of(signature)))


def accepted(tried: Attempt, answer: Joined, gateway: str) -> tuple[Kept, bytes]:
    """Return the identity that *answer* makes, and its key and certificate in PEM.

    Raises ConfigError unless it comes from the gateway that the token is of, and is for the key that was asked for.
    """
    try:
        fingerprint = sha256(ssl.PEM_cert_to_DER_cert(answer.authority)).digest()
        authority = x509.load_pem_x509_certificate(answer.authority.encode())
        certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise ConfigError("what answered gave no certificate of its own authority: it is not believed") from None
    if fingerprint != tried.token.fingerprint:
        raise ConfigError("what answered is not the gateway that the token is of: its fingerprint is another")
    if certificate.public_key() != tried.key.public_key():
        raise ConfigError("the certificate that was given is for another key: it is not believed")
    asked = tried.request
    kept = Kept(
        name=asked.name,
        gateway=gateway,
        host=asked.host,
        port=asked.port,
        key_file=f"identity-{certificate.serial_number:x}.pem",
        authority=answer.authority,
    )
    key = tried.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return kept, key + answer.certificate.encode()
