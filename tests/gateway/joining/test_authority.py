from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from cortex.core.errors import BadRequest, ConfigError
from cortex.gateway.joining.authority import AUTHORITY_FILE, GATEWAY_FILE, Authority, host_name
from cortex.neuron.joining import attempt
from cortex.wire.joining import Token

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def csr() -> str:
    return attempt(Token("00000000", bytes(32), bytes(32)), "attic", "10.0.0.2", 1).request.csr


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "join")
    authority.establish(NOW)
    return authority


def test_its_keys_are_for_this_user_alone(authority: Authority, tmp_path: Path) -> None:
    files = [tmp_path / "join", tmp_path / "join" / AUTHORITY_FILE, tmp_path / "join" / GATEWAY_FILE]

    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o700, 0o600, 0o600]


def test_it_is_made_once(authority: Authority, tmp_path: Path) -> None:
    again = Authority(tmp_path / "join")
    again.establish(NOW + timedelta(days=1))

    assert again.fingerprint == authority.fingerprint
    assert authority.fingerprint == sha256(ssl.PEM_cert_to_DER_cert(authority.certificate)).digest()
    assert "PRIVATE" not in authority.certificate


def test_a_node_gets_a_certificate_of_a_server_under_a_name_of_its_own(authority: Authority) -> None:
    request = csr()
    issued = authority.issue(request, NOW)
    certificate = x509.load_pem_x509_certificate(issued.certificate.encode())

    assert f"{certificate.serial_number:x}" == issued.serial
    assert certificate.public_key() == x509.load_pem_x509_csr(request.encode()).public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [host_name(issued.serial)]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate.encode()))


def test_certificates_hold_on_a_machine_whose_clock_is_a_day_slow(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.issue(csr(), NOW).certificate.encode())

    assert certificate.not_valid_before_utc < NOW - timedelta(days=1)
    assert certificate.not_valid_after_utc > NOW + timedelta(days=3649)


def test_two_certificates_for_one_key_have_different_names(authority: Authority) -> None:
    request = csr()

    assert authority.issue(request, NOW).serial != authority.issue(request, NOW).serial


@pytest.mark.parametrize("wrong", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"])
def test_what_is_no_request_for_a_certificate_is_refused(authority: Authority, wrong: str) -> None:
    with pytest.raises(BadRequest, match="csr"):
        authority.issue(wrong, NOW)


def test_a_key_of_another_kind_is_refused(authority: Authority) -> None:
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())

    with pytest.raises(BadRequest, match="elliptic-curve"):
        authority.issue(request.public_bytes(Encoding.PEM).decode(), NOW)


@pytest.mark.parametrize("file", [AUTHORITY_FILE, GATEWAY_FILE])
@pytest.mark.parametrize("content", [None, "not a key"])
def test_without_its_files_joined_nodes_cannot_be_reached_and_it_says_so(
    authority: Authority, tmp_path: Path, file: str, content: str | None
) -> None:
    path = tmp_path / "join" / file
    path.unlink()
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError, match=r"restore it, or remove them"):
        authority.context()
