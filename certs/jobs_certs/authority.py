"""The authority: its own certificate, and those it issues. ECDSA on P-256 throughout.

One level: the authority signs servers and clients and nothing that could sign (path length 0), so
a chain is always one link. A certificate says in its extended key usage which of the two it is;
a server's key can therefore never act as a client, nor the other way round.
"""

import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jobs_certs.errors import CertsError
from jobs_certs.files import make_private, refuse_existing, write_pair
from jobs_certs.names import SERVER, check_client, check_subject, host_names, roles_of, spiffe_id
from jobs_certs.pem import load_certificate, load_key

CA_DAYS = 3650
SERVER_DAYS = 365
CLIENT_DAYS = 90
"""A client's key lives where people work and is easily renewed; a server's is better guarded."""

MAX_DAYS = 36_500

BACKDATE = timedelta(minutes=1)
"""Valid from a little before now, for the peer whose clock is a little behind."""


@frozen(kw_only=True)
class Issued:
    """What was made.

    Attributes:
        certificate: the path of `NAME.crt`, for everybody.
        key: the path of `NAME.key`, for its holder alone.
    """

    certificate: Path
    key: Path


def init(directory: Path | str, *, name: str | None = None, days: int = CA_DAYS) -> Issued:
    """Make an authority: `ca.crt` and `ca.key` in `directory`, which becomes private (0700).

    Args:
        directory: made if it is missing.
        name: the authority's own CN; "Jobs CA" and eight random digits, so that two authorities
            can be told apart.
        days: how long it is valid.

    Raises:
        CertsError: it exists, or cannot be written.
    """
    directory = Path(directory)
    name = f"Jobs CA {secrets.token_hex(4)}" if name is None else name
    check_subject(name)
    check_days("A certificate", days)
    make_private(directory)
    refuse_existing(directory / "ca.crt", directory / "ca.key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = _valid(_builder(subject, subject, key, key), now, now + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return _write(directory, "ca", key, builder.sign(key, hashes.SHA256()))


def issue(
    directory: Path | str,
    name: str,
    *,
    role: str | Sequence[str],
    days: int | None = None,
    sans: Iterable[str] = (),
) -> Issued:
    """Make a key and a certificate for it: `NAME.crt` and `NAME.key` beside the authority's.

    Args:
        directory: the authority's.
        name: the subject's CN.
        role: `server`, or what a client may: `admin`, `operator`, `viewer` or a word of a plugin;
            several are one OU each.
        days: how long it is valid, at most as long as the authority. None: `SERVER_DAYS` or
            `CLIENT_DAYS`, and less if the authority ends earlier.
        sans: for a server, the DNS names and addresses under which clients find it (none: its
            name); for a client, at most one SPIFFE ID, which is then its identity.

    Raises:
        CertsError: one of these is refused, the files exist, or there is no authority.
    """
    directory = Path(directory)
    check_subject(name)
    roles = roles_of(role)
    is_server = roles == (SERVER,)
    extensions = _server(name, sans) if is_server else _client(name, sans)
    refuse_existing(directory / f"{name}.crt", directory / f"{name}.key")
    subject = _subject(name, () if is_server else roles)
    days_by_default = SERVER_DAYS if is_server else CLIENT_DAYS
    key, certificate = sign(directory, subject, extensions, days, days_by_default)
    return _write(directory, name, key, certificate)


def sign(
    directory: Path,
    subject: x509.Name,
    extensions: Iterable[x509.ExtensionType],
    days: int | None,
    days_by_default: int,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make a key, and a certificate for it that signs no others; nothing is written.

    Raises:
        CertsError: there is no authority, or it ends before.
    """
    authority, authority_key = load_authority(directory)
    now = datetime.now(UTC)
    end = _end(authority, now, days, days_by_default)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _valid(_builder(subject, authority.subject, key, authority_key), now, end)
    no_authority = x509.BasicConstraints(ca=False, path_length=None)
    builder = builder.add_extension(no_authority, critical=True)
    builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return key, builder.sign(authority_key, hashes.SHA256())


def _server(name: str, sans: Iterable[str]) -> list[x509.ExtensionType]:
    return [
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.SubjectAlternativeName(host_names(name, sans)),
    ]


def _client(name: str, sans: Iterable[str]) -> list[x509.ExtensionType]:
    check_client(name)
    uri = spiffe_id(sans)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    return [usage, x509.SubjectAlternativeName(uri)] if uri else [usage]


def _subject(name: str, roles: Iterable[str]) -> x509.Name:
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role) for role in roles]
    return x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )


def _valid(
    builder: x509.CertificateBuilder, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return builder.not_valid_before(now - BACKDATE).not_valid_after(end)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def check_days(what: str, days: int) -> None:
    """Refuse a time that is none.

    Raises:
        CertsError: it is.
    """
    if not 1 <= days <= MAX_DAYS:
        raise CertsError(f"{what} is valid for 1 to {MAX_DAYS} days, not {days}.")


def _end(authority: x509.Certificate, now: datetime, days: int | None, default: int) -> datetime:
    """Say when a certificate ends: none outlives its issuer, which would end it unannounced."""
    if days is not None:
        check_days("A certificate", days)
    last = authority.not_valid_after_utc
    if last <= now:
        raise CertsError(
            f"The authority ended on {last:%Y-%m-%d}, and can issue nothing more. Make a new one "
            "in another directory."
        )
    end = now + timedelta(days=days or default)
    # Less than a day too long is what "as long as the authority" looks like a moment later.
    if days is not None and end - last >= timedelta(days=1):
        raise CertsError(
            f"The authority itself ends on {last:%Y-%m-%d}, before these {days} days are over. "
            f"Ask for at most {(last - now).days + 1}."
        )
    return min(end, last)


def load_authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Read the authority's certificate and key.

    Raises:
        CertsError: they are not there, or do not belong together.
    """
    if not (directory / "ca.key").exists() and not (directory / "ca.crt").exists():
        raise CertsError(
            f"There is no authority in {directory} (no ca.crt, no ca.key). Name another directory "
            "with --dir, or make one first: jobsctl certs init."
        )
    authority = load_certificate(directory / "ca.crt")
    key = load_key(directory / "ca.key")
    if key.public_key() != authority.public_key():
        raise CertsError(
            f"{directory / 'ca.key'} is not the key of {directory / 'ca.crt'}. "
            "Bring the two that belong together."
        )
    return authority, key


def _write(
    directory: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> Issued:
    paths = write_pair(directory, name, key_pem(key), certificate.public_bytes(Encoding.PEM))
    return Issued(certificate=paths[0], key=paths[1])


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a key as its file holds it: not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
