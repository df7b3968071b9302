"""Certificates round trip: what was asked for is in them, and they are believed; every refusal."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from jobs_certs import CertsError, describe, init, issue, show, verify
from jobs_certs.pem import load_key
from jobs_proto.identity import CLIENT_AUTH, SERVER_AUTH


@pytest.fixture
def ca(tmp_path):
    directory = tmp_path / "ca"
    init(directory)
    return directory


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_authority_signs_and_nothing_below_it_does(ca):
    certificate = load(ca / "ca.crt")
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.public_key().curve.name == "secp256r1"
    years = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(3649) < years <= timedelta(3650)


def test_a_client(ca):
    made = issue(ca, "alice", role=["operator", "on-call"])
    peer = describe(load(made.certificate))
    assert peer.common_name == "alice"
    assert set(peer.organizational_units) == {"operator", "on-call"}
    assert peer.uris == ()
    assert peer.extended_key_usages == (CLIENT_AUTH,)
    assert len(peer.fingerprint) == 64
    assert peer.not_before < datetime.now(UTC).isoformat()
    assert verify(made.certificate) == "client"
    shown = show(made.certificate)
    assert (shown.kind, shown.name, shown.days_left) == ("client", "alice", 89)
    assert set(shown.roles) == {"operator", "on-call"}
    assert int(shown.serial, 16) == peer.serial


def test_a_client_with_a_uri(ca):
    made = issue(ca, "builder", role="operator", sans=["spiffe://example.com/ci/builder"])
    assert describe(load(made.certificate)).uris == ("spiffe://example.com/ci/builder",)
    assert show(made.certificate).sans == ("URI:spiffe://example.com/ci/builder",)
    assert verify(made.certificate) == "client"


def test_a_server(ca):
    sans = ["jobs.example.com", "192.0.2.7", "IP:::1", "dns:Other.Example"]
    made = issue(ca, "srv", role="server", sans=sans)
    shown = show(made.certificate)
    assert shown.sans == ("DNS:jobs.example.com", "IP:192.0.2.7", "IP:::1", "DNS:other.example")
    assert shown.kind == "server"
    assert shown.roles == ()
    assert describe(load(made.certificate)).extended_key_usages == (SERVER_AUTH,)
    for host in ("jobs.example.com", "192.0.2.7", "::1", "OTHER.example", None):
        assert verify(made.certificate, host=host) == "server"
    for host in ("example.com", "a.jobs.example.com", "192.0.2.8", "not a host"):
        with pytest.raises(CertsError, match="does not name"):
            verify(made.certificate, host=host)


@pytest.mark.parametrize("name", ["localhost", "jobs.example.com", "192.0.2.7", "::1"])
def test_a_servers_own_name_will_do(ca, name):
    assert verify(issue(ca, name, role="server").certificate, host=name) == "server"


def test_openssl_agrees(ca):
    """The same purposes and chain by the library that does the handshakes."""
    issue(ca, "alice", role="admin")
    issue(ca, "localhost", role="server")
    for name, purpose, other in [
        ("alice", "sslclient", "sslserver"),
        ("localhost", "sslserver", "sslclient"),
    ]:
        command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "-purpose"]
        run = {"cwd": ca, "capture_output": True, "text": True, "timeout": 30}
        good = subprocess.run([*command, purpose, f"{name}.crt"], check=False, **run)
        bad = subprocess.run([*command, other, f"{name}.crt"], check=False, **run)
        assert good.returncode == 0, good.stderr
        assert bad.returncode != 0
    context = ssl.create_default_context(cafile=ca / "ca.crt")
    context.load_cert_chain(ca / "alice.crt", ca / "alice.key")


def test_serials_and_keys_are_never_alike(ca):
    made = [load(issue(ca, f"c{n}", role="viewer").certificate) for n in range(3)]
    assert len({c.serial_number for c in made}) == 3
    assert len({c.public_key().public_numbers() for c in made}) == 3


@pytest.mark.parametrize("name", ["alice", "Jürgen Groß", "a b", "x" * 64, "é" * 32, "a.b-c_d@e"])
def test_names_that_will_do(ca, name):
    assert show(issue(ca, name, role="viewer").certificate).name == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("a/b", "path separator"),
        ("a\\b", "path separator"),
        ("../x", "path separator"),
        ("..", "dot or a dash"),
        (".hidden", "dot or a dash"),
        ("-x", "dot or a dash"),
        ("x" * 65, "takes 65 bytes"),
        ("é" * 33, "takes 66 bytes"),
        ("a\nb", "cannot be shown"),
        ("a\0b", "cannot be shown"),
        ("a\x1b[2J", "cannot be shown"),
        ("\u202ecila", "cannot be shown"),
        ("a\udc80", "cannot be shown"),
        (" alice", "space"),
        ("ca", "authority's own"),
        ("spiffe:alice", "colon"),
    ],
)
def test_names_that_will_not(ca, name, why):
    with pytest.raises(CertsError, match=why) as caught:
        issue(ca, name, role="viewer")
    assert "Take a word such as alice" in str(caught.value)
    assert sorted(p.name for p in ca.iterdir()) == ["ca.crt", "ca.key"]


@pytest.mark.parametrize("role", ["", "Admin", "a b", "1st", "-x", "a,b", "x" * 65, "ä"])
def test_words_that_are_no_role(ca, role):
    with pytest.raises(CertsError, match="is no role"):
        issue(ca, "alice", role=role)


def test_roles_that_do_not_go_together(ca):
    with pytest.raises(CertsError, match="cannot be a server's and a client's"):
        issue(ca, "both", role=["server", "admin"])
    with pytest.raises(CertsError, match="needs a role"):
        issue(ca, "none", role=[])


@pytest.mark.parametrize(
    "san",
    [
        "",
        "10.0.0.256",
        "1.2.3",
        "a_b",
        "-a.example",
        "a..b",
        "host.",
        "host:7520",
        "https://host/",
        "fe80::1%eth0",
        "bücher.example",
        "*.example.com",
        "x" * 64,
        ".".join(["x" * 63] * 4),
        "IP:host",
        "URI:spiffe://a/b",
        "a\nb",
    ],
)
def test_alternative_names_that_are_no_host(ca, san):
    with pytest.raises(CertsError, match="neither a DNS name nor an IP address"):
        issue(ca, "srv", role="server", sans=[san])


def test_a_server_that_would_have_no_host(ca):
    with pytest.raises(CertsError, match="Give at least one with --san"):
        issue(ca, "my server", role="server")


@pytest.mark.parametrize(
    "san",
    [
        "localhost",
        "DNS:spiffe://a/b",
        "https://example.com/x",
        "spiffe://",
        "spiffe://example.com",
        "spiffe://example.com/",
        "spiffe://example.com/a//b",
        "spiffe://example.com/a/../b",
        "spiffe://example.com/.",
        "spiffe://example.com:80/a",
        "spiffe://user@example.com/a",
        "spiffe://Example.com/a",
        "spiffe://example.com/a?b",
        "spiffe://example.com/a%20b",
        "spiffe://example.com/a\n",
        "spiffe://example.com/" + "a" * 2048,
    ],
)
def test_alternative_names_that_are_no_spiffe_id(ca, san):
    with pytest.raises(CertsError, match="SPIFFE ID"):
        issue(ca, "alice", role="admin", sans=[san])


def test_a_client_is_one(ca):
    with pytest.raises(CertsError, match="one URI at most, not 2"):
        issue(ca, "alice", role="admin", sans=["spiffe://a/b", "spiffe://a/c"])


@pytest.mark.parametrize("days", [0, -1, 36_501, 10**12])
def test_days_that_will_not_do(ca, tmp_path, days):
    with pytest.raises(CertsError, match="valid for 1 to 36500 days"):
        issue(ca, "alice", role="admin", days=days)
    with pytest.raises(CertsError, match="valid for 1 to 36500 days"):
        init(tmp_path / "other", days=days)


def test_nothing_outlives_its_authority(tmp_path):
    init(tmp_path / "ca", days=30)
    end = load(tmp_path / "ca" / "ca.crt").not_valid_after_utc
    for name, days in [("default", None), ("same", 30)]:
        made = issue(tmp_path / "ca", name, role="admin", days=days)
        assert load(made.certificate).not_valid_after_utc == end
        assert verify(made.certificate) == "client"
    with pytest.raises(CertsError, match="Ask for at most 30"):
        issue(tmp_path / "ca", "longer", role="admin", days=31)


def test_there_is_no_authority(tmp_path):
    with pytest.raises(CertsError, match="jobsctl certs init"):
        issue(tmp_path, "alice", role="admin")


def test_an_authority_that_has_ended(tmp_path):
    directory = made_by_hand(tmp_path, end=timedelta(hours=-1))
    with pytest.raises(CertsError, match="can issue nothing more"):
        issue(directory, "alice", role="admin")


def made_by_hand(tmp_path: Path, *, end: timedelta) -> Path:
    """An authority as another tool, or another time, would have made it."""
    directory = tmp_path / "by-hand"
    key_path = init(directory).key
    key = load_key(key_path)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "by hand")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return directory


def test_a_strangers_ca_key(ca, tmp_path):
    init(tmp_path / "other")
    (ca / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(CertsError, match=r"is not the key of"):
        issue(ca, "alice", role="admin")


def test_a_key_that_is_none(ca):
    (ca / "ca.key").write_text("nonsense")
    with pytest.raises(CertsError, match="no private key that can be used"):
        issue(ca, "alice", role="admin")
