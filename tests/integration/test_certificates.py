"""Certificates that should not be, shown to a supervisor; the table in certs/README.md is this.

    JOBS_WRITE_TABLE=1 python -m pytest tests/integration/test_certificates.py

writes the table anew; without it, the test asserts that the table is what was found.
"""

import os
import re
import ssl
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID
from wire import Wire

from jobs_certs import init, revoke
from jobs_certs.pem import load_certificate, load_key

README = Path(__file__).parents[2] / "certs/README.md"
HEADING = "| certificate | what comes of it |\n|---|---|\n"
DAY = timedelta(days=1)
LONG = 1000


def elliptic():
    return ec.generate_private_key(ec.SECP256R1())


def rsa_of(bits):
    return lambda: rsa.generate_private_key(65537, bits)


def case(what, **how):
    return pytest.param(what, how, id=what)


CASES = [
    case("as `certs issue` makes it"),
    case("none", without=True),
    case("expired", start=-2 * DAY, end=-DAY),
    case("not yet valid", start=DAY, end=2 * DAY),
    case("revoked", revoked=True),
    case("of another authority", by="other"),
    case("of another authority of the same name", by="namesake"),
    case("signed by itself", by=None),
    case("the authority's own", names=(), itself=True),
    case("a server's, used as a client's", usages=[Usage.SERVER_AUTH], dns=["localhost"]),
    case("for servers and clients", usages=[Usage.SERVER_AUTH, Usage.CLIENT_AUTH]),
    case("for signing code", usages=[Usage.CODE_SIGNING]),
    case("for no purpose (no extended key usage)", usages=None),
    case("one URI, and a CN", uris=["spiffe://example.com/ci"]),
    case("one URI, and no CN", names=(), uris=["spiffe://example.com/ci"]),
    case("one URI that is no SPIFFE ID", uris=["https://example.com/alice"]),
    case("two URIs", uris=["spiffe://example.com/a", "spiffe://example.com/b"]),
    case("a CN and a DNS name", dns=["bob.example.com"]),
    case("two CNs", names=("alice", "bob")),
    case("no CN", names=()),
    case("an empty CN", names=("",)),
    case("a CN of a space", names=(" ",)),
    case("a CN of 64 letters", names=("a" * 64,)),
    case(f"a CN of {LONG} letters", names=("a" * LONG,)),
    case("a CN of 3000 letters", names=("a" * 3000,)),
    case("a URI of 3000 letters", uris=["spiffe://example.com/" + "a" * 2979]),
    case("a CN beyond ASCII", names=("Zoë 李",)),
    case("a CN that turns the line around (U+202E)", names=("\u202eecila",)),
    case("a CN with NUL", names=("alice\0bob",)),
    case("a CN with a newline", names=('alice"}\n{"who", "admin"}',)),
    case("a CN with an escape sequence", names=("\x1b[2Jalice",)),
    case("a CN with quotes and braces", names=('alice", "verdict", "allow"}',)),
    case("a CN that reads as a URI", names=("spiffe://example.com/ci",)),
    case("a CN that reads as a group", names=("@ops",)),
    case("no OU", units=()),
    case("an OU with a newline", units=("admin\n",)),
    case("an OU that no rule knows", units=("Admin",)),
    case("an Ed25519 key", key=ed25519.Ed25519PrivateKey.generate),
    case("an RSA key of 2048 bits", key=rsa_of(2048)),
    case("an RSA key of 1024 bits", key=rsa_of(1024)),
]
FOUND = {}


def attribute(oid, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it knows that this is no name
        return x509.NameAttribute(oid, value, _validate=False)


class Forge:
    """Makes certificates that `jobsctl certs` would not make.

    Args:
        folder: for them.
        authority: the supervisor's.
    """

    def __init__(self, folder, authority):
        self.folder = folder
        self.authorities = {
            "ours": (load_certificate(authority / "ca.crt"), load_key(authority / "ca.key"))
        }
        name = self.authorities["ours"][0].subject.rfc4514_string().removeprefix("CN=")
        for which, called in (("other", None), ("namesake", name)):
            init(folder / which, name=called)
            pair = load_certificate(folder / which / "ca.crt"), load_key(folder / which / "ca.key")
            self.authorities[which] = pair

    def make(
        self,
        *,
        names=("alice",),
        units=("operator",),
        usages=(Usage.CLIENT_AUTH,),
        uris=(),
        dns=(),
        start=-DAY,
        end=DAY,
        by="ours",
        key=elliptic,
    ):
        """Write one; give it."""
        private = key()
        subject = x509.Name(
            [
                *(attribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units),
                *(attribute(NameOID.COMMON_NAME, name) for name in names),
            ]
        )
        issuer, signer = (None, private) if by is None else self.authorities[by]
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + start)
            .not_valid_after(now + end)
        )
        sans = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        certificate = builder.sign(signer, hashes.SHA256())
        return self.write(certificate, private)

    def write(self, certificate, private):
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "it.key").write_bytes(pem)
        (self.folder / "it.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        return certificate


@pytest.fixture(scope="module")
def serving(make_shared, tmp_path_factory):
    """A supervisor that has a list of the revoked, and a forge of its authority."""
    supervisor = make_shared(start=False)
    supervisor.start()  # makes the authority
    forge = Forge(tmp_path_factory.mktemp("forge"), supervisor.certs)
    revoked = forge.make()
    (forge.folder / "revoked.key").write_bytes((forge.folder / "it.key").read_bytes())
    revoke(supervisor.certs, serials=[f"{revoked.serial_number:x}"])
    settings = supervisor.directory / "supervisor.toml"
    crl = supervisor.certs / "ca.crl"
    settings.write_text(settings.read_text().replace("[jobs]", f'crl = "{crl}"\n[jobs]'))
    supervisor.stop()
    supervisor.start()
    return supervisor, forge, revoked


def prepare(forge, revoked, how):
    """Put the certificate of a case in its place; say whether one is to be shown at all."""
    if how.get("revoked"):
        key = load_key_of(forge.folder / "revoked.key")
        forge.write(revoked, key)
    elif how.get("itself"):
        forge.write(*forge.authorities["ours"])
    elif not how.get("without"):
        forge.make(**how)
    return not how.get("without")


def load_key_of(path):
    path.chmod(0o600)
    return load_key(path)


def outcome(serving, forge, *, shown):
    """Connect, ask who we are, and say what came of it."""
    try:
        with Wire(serving, "it" if shown else None, certs=forge.folder) as wire:
            wire.ask("whoami", {})
            match wire.receive():
                case [1, _, None, {"identity": name, "roles": roles}]:
                    return f"let in as `{shortened(name)}`, {' '.join(roles) or 'without a role'}"
                case [1, _, {"code": code, "message": message}, None]:
                    return f"let in, and refused everything: {code}, “{shortened(message)}”"
                case [2, "error", {"code": code, "message": message}]:
                    assert wire.receive() is None
                    return f"{code}: “{shortened(message)}”"
    except ssl.SSLError as error:
        alert = error.reason.partition("ALERT_")[2]
        return f"refused in the handshake: {alert.lower().replace('_', ' ')}"
    raise AssertionError("it answered with something else")


def shortened(text):
    return re.sub(r"(.)\1{40,}", lambda run: f"{run[1] * 3}… ({len(run[0])})", text).replace(
        "|", "\\|"
    )


@pytest.mark.parametrize(("what", "how"), CASES)
def test_what_comes_of_a_certificate(serving, what, how):
    supervisor, forge, revoked = serving
    log_before = supervisor.log.stat().st_size
    audit_before = len(supervisor.decisions())
    shown = prepare(forge, revoked, how)
    FOUND[what] = outcome(supervisor, forge, shown=shown)
    # Nobody's name makes lines of its own, in either log.
    decisions = supervisor.decisions()[audit_before:]
    assert all(line["who"] != "admin" for line in decisions)
    said = supervisor.log.read_bytes()[log_before:].decode()
    assert all(line.startswith("20") for line in said.splitlines())
    assert said.replace("\n", "").isprintable()


def test_the_table_in_the_readme_is_what_was_found():
    if FOUND.keys() != {each.values[0] for each in CASES}:
        pytest.skip("only some certificates were tried")
    table = HEADING + "".join(f"| {what} | {came} |\n" for what, came in FOUND.items())
    text = README.read_text()
    before, rest = text.split(HEADING)
    after = re.sub(r"\A(\|[^\n]*\n)*", "", rest)
    if os.environ.get("JOBS_WRITE_TABLE"):
        README.write_text(before + table + after)
    assert README.read_text() == before + table + after
