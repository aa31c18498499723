"""The gateway's own small certificate authority: its key, the gateway's certificate, and those of nodes.

The gateway's certificate is a client's and a node's is a server's, so that no node can call another. Each node's
has a name that no other has, with its serial number in it.
"""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cortex.core.errors import BadRequest, ConfigError
from cortex.core.state_file import keep_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder, ObjectIdentifier

NEEDED = ("cryptography",)
AUTHORITY_FILE, GATEWAY_FILE = "authority.pem", "gateway.pem"
# Trust ends by removing a node, not by the date: there is nothing to renew in the life of a machine.
AUTHORITY_DAYS, NODE_DAYS = 20 * 365, 10 * 365
SKEW = timedelta(days=2)  # by which a clock may be slow


class Issued(NamedTuple):
    """A node's certificate, PEM, and its serial number in hexadecimal."""

    serial: str
    certificate: str


class Authority:
    """Owns the key, in a file of *directory* that only this user reads. There is none before `establish`."""

    def __init__(self, directory: Path) -> None:
        self._file, self._gateway_file = directory / AUTHORITY_FILE, directory / GATEWAY_FILE

    def establish(self, now: datetime) -> None:
        """Make the key and the gateway's certificate unless they are there. Raises ServiceError, ConfigError."""
        if not self._file.exists():
            keep_bytes(self._file, _new_authority(now))
        if not self._gateway_file.exists():
            keep_bytes(self._gateway_file, self._gateway_identity(now))

    @property
    def certificate(self) -> str:
        """The authority's certificate, PEM. Raises ConfigError when it cannot be read."""
        text = _read(self._file)
        return text[text.index("-----BEGIN CERTIFICATE") :]

    @property
    def fingerprint(self) -> bytes:
        """The SHA-256 of the authority's certificate. Raises ConfigError."""
        return sha256(ssl.PEM_cert_to_DER_cert(self.certificate)).digest()

    def issue(self, csr: str, now: datetime) -> Issued:
        """Return a certificate for the key that the PEM *csr* is signed with; nothing else in it counts.

        Raises BadRequest when it is no such request, ConfigError when the authority cannot be read.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.x509.oid import ExtendedKeyUsageOID

        try:
            asked = x509.load_pem_x509_csr(csr.encode())
            key = asked.public_key()
            is_fit = isinstance(key, EllipticCurvePublicKey) and asked.is_signature_valid
        except ValueError as error:
            raise BadRequest(f"csr: {error}", param="csr") from None
        if not is_fit:
            raise BadRequest("csr: expected a request that is signed with its own elliptic-curve key", param="csr")
        serial = x509.random_serial_number()
        name = host_name(f"{serial:x}")
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        builder = _leaf(name, usage, now, NODE_DAYS).serial_number(serial).public_key(asked.public_key())
        return Issued(f"{serial:x}", _pem(self._signed(builder)))

    def context(self) -> ssl.SSLContext:
        """Return how this gateway connects to joined nodes. Raises ConfigError when its files are not there."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.certificate)
        try:
            context.load_cert_chain(self._gateway_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(_lost(self._gateway_file, error)) from None
        return context

    def _gateway_identity(self, now: datetime) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
        from cryptography.x509 import random_serial_number
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = generate_private_key(SECP256R1())
        builder = _leaf("gateway.cortex.internal", ExtendedKeyUsageOID.CLIENT_AUTH, now, AUTHORITY_DAYS)
        builder = builder.serial_number(random_serial_number()).public_key(key.public_key())
        return _key_pem(key) + _pem(self._signed(builder)).encode()

    def _signed(self, builder: CertificateBuilder) -> Certificate:
        """Return what *builder* describes, signed and in no case valid for longer than the authority."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        text = _read(self._file).encode()
        try:
            key, own = load_pem_private_key(text, None), x509.load_pem_x509_certificate(self.certificate.encode())
        except ValueError as error:
            raise ConfigError(_lost(self._file, error)) from None
        if not isinstance(key, EllipticCurvePrivateKey):
            raise ConfigError(_lost(self._file, "not an elliptic-curve key"))
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        return builder.issuer_name(own.subject).add_extension(identifier, critical=False).sign(key, SHA256())


def host_name(serial: str) -> str:
    """Return the name in the certificate with *serial*, which the gateway asks for and no other certificate has."""
    return f"{serial}.node.cortex.internal"


def _new_authority(now: datetime) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.hashes import SHA256

    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Cortex fleet")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return _key_pem(key) + _pem(certificate).encode()


def _leaf(name: str, usage: ObjectIdentifier, now: datetime, days: int) -> CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])]))
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _pem(certificate: Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(_lost(file, error)) from None
    if "-----BEGIN CERTIFICATE" not in text:
        raise ConfigError(_lost(file, "there is no certificate in it"))
    return text


def _lost(file: Path, why: object) -> str:
    return f"{file}: {why}; joined nodes know this gateway by it: restore it, or remove them and have them join again"
