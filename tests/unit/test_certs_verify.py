"""What is not to be believed is refused, with the reason first in the order people need it."""

import shutil
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jobs_certs import CertsError, describe, init, issue, show, verify
from jobs_certs.pem import load_certificate, load_key

DAY = timedelta(days=1)


@pytest.fixture
def ca(tmp_path):
    init(tmp_path / "ca")
    return tmp_path / "ca"


def sign(ca, *, names=("alice",), extensions=(), start=-DAY, end=DAY):
    """A certificate of this authority that `issue` would not make."""
    issuer, issuer_key = load_certificate(ca / "ca.crt"), load_key(ca / "ca.key")
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n) for n in names]))
        .issuer_name(issuer.subject)
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    path = ca / "made.crt"
    path.write_bytes(builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return path


CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


def test_the_authority_itself(ca):
    assert verify(ca / "ca.crt") == "ca"
    assert show(ca / "ca.crt").kind == "ca"


def test_elsewhere_than_beside_its_authority(ca, tmp_path):
    issue(ca, "alice", role="admin")
    shutil.copy(ca / "alice.crt", tmp_path)
    assert verify(tmp_path / "alice.crt", ca=ca / "ca.crt") == "client"
    with pytest.raises(CertsError, match=r"no ca\.crt beside .* --ca"):
        verify(tmp_path / "alice.crt")


def test_another_authority(ca, tmp_path):
    issue(ca, "alice", role="admin")
    init(tmp_path / "other")
    with pytest.raises(CertsError, match="was not signed by this authority"):
        verify(ca / "alice.crt", ca=tmp_path / "other" / "ca.crt")


def test_another_authority_of_the_same_name(tmp_path):
    for directory in ("one", "two"):
        init(tmp_path / directory, name="Twin")
    made = issue(tmp_path / "one", "alice", role="admin")
    with pytest.raises(CertsError, match="was not signed by this authority"):
        verify(made.certificate, ca=tmp_path / "two" / "ca.crt")


def test_an_authority_that_is_none(ca):
    issue(ca, "alice", role="admin")
    with pytest.raises(CertsError, match="is no authority's certificate"):
        verify(ca / "alice.crt", ca=ca / "alice.crt")


@pytest.mark.parametrize(
    ("start", "end", "why"),
    [(-2 * DAY, -DAY, "was valid until"), (DAY, 2 * DAY, "is valid only from")],
)
def test_at_the_wrong_time(ca, start, end, why):
    with pytest.raises(CertsError, match=why):
        verify(sign(ca, extensions=[CLIENT], start=start, end=end))


def test_days_left_count_down_below_zero(ca):
    assert show(sign(ca, extensions=[CLIENT], start=-9 * DAY, end=-3 * DAY)).days_left == -4


@pytest.mark.parametrize("extensions", [[], [BOTH]], ids=["none", "both"])
def test_for_no_one_purpose(ca, extensions):
    made = sign(ca, extensions=extensions)
    assert show(made).kind == "other"
    with pytest.raises(CertsError, match="either servers or clients"):
        verify(made)


def test_a_server_without_a_host(ca):
    with pytest.raises(CertsError, match="names no host"):
        verify(sign(ca, extensions=[SERVER]))


def test_a_client_stands_for_no_host(ca):
    issue(ca, "alice", role="admin")
    with pytest.raises(CertsError, match="it stands for no host"):
        verify(ca / "alice.crt", host="alice")


def test_what_only_the_library_finds(ca):
    """A critical extension nobody here knows: the explicit checks pass, the last word does not."""
    issuer_key = load_key(ca / "ca.key")
    now = datetime.now(UTC)
    oid = x509.ObjectIdentifier("1.2.3.4")
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")]))
        .issuer_name(load_certificate(ca / "ca.crt").subject)
        .public_key(issuer_key.public_key())
        .serial_number(9)
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(CLIENT, critical=False)
        .add_extension(x509.UnrecognizedExtension(oid, b"\x05\x00"), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    (ca / "odd.crt").write_bytes(made.public_bytes(Encoding.PEM))
    with pytest.raises(CertsError, match="is not to be believed"):
        verify(ca / "odd.crt")


def test_a_strangers_key_beside_it(ca):
    issue(ca, "alice", role="admin")
    issue(ca, "bob", role="admin")
    (ca / "alice.key").write_bytes((ca / "bob.key").read_bytes())
    with pytest.raises(CertsError, match=r"alice\.key is not the key of"):
        verify(ca / "alice.crt")


def test_no_key_beside_it_is_no_fault(ca):
    issue(ca, "alice", role="admin").key.unlink()
    assert verify(ca / "alice.crt") == "client"


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_no_certificate(ca, content):
    (ca / "x.crt").write_bytes(content)
    for look in (show, verify):
        with pytest.raises(CertsError, match="holds no certificate in PEM"):
            look(ca / "x.crt")


def test_a_key_is_no_certificate(ca):
    with pytest.raises(CertsError, match="holds no certificate in PEM"):
        show(ca / "ca.key")


def test_two_names_are_none(ca):
    made = load_certificate(sign(ca, names=("alice", "bob"), extensions=[CLIENT]))
    assert describe(made).common_name is None


def test_extensions_that_cannot_be_decoded(ca):
    oid = x509.SubjectAlternativeName.oid
    made = sign(ca, extensions=[x509.UnrecognizedExtension(oid, b"\x01\x02")])
    with pytest.raises(CertsError, match="cannot be decoded"):
        describe(load_certificate(made))
