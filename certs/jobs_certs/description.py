"""What a certificate says: `describe` for the supervisor, `show` for people."""

import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from jobs_certs.errors import CertsError
from jobs_certs.pem import load_certificate
from jobs_proto.identity import CLIENT_AUTH, SERVER_AUTH, PeerCertificate
from jobs_proto.job import timestamp

E = TypeVar("E", bound=x509.ExtensionType)


WARN_DAYS = 14
"""Whoever has fewer days left is told: time enough to ask for another, and to be on holiday."""


@frozen(kw_only=True)
class Description:
    """A certificate for people to read; as a map it is what `certs show --json` prints.

    Attributes:
        kind: `ca`, `server`, `client`, or `other` if it is none or several of these.
        subject: the whole distinguished name, RFC 4514.
        issuer: the same of who signed it.
        name: the one CN; None if it has none or several.
        roles: the OUs.
        sans: `DNS:…`, `IP:…` or `URI:…` each.
        serial: hexadecimal, as openssl shows it.
        fingerprint: SHA-256 of the DER, hexadecimal.
        not_before: UTC, ISO 8601.
        not_after: UTC, ISO 8601.
        days_left: whole days from now; negative once it has ended.
    """

    kind: str
    subject: str
    issuer: str
    name: str | None
    roles: tuple[str, ...]
    sans: tuple[str, ...]
    serial: str
    fingerprint: str
    not_before: str
    not_after: str
    days_left: int


def show(path: Path | str) -> Description:
    """Say what the certificate in a file says; whether to believe it is `verify`'s business.

    Raises:
        CertsError: the file cannot be read, or holds no certificate that makes sense.
    """
    certificate = load_certificate(Path(path))
    peer = describe(certificate)
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    return Description(
        kind=kind_of(certificate),
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        name=peer.common_name,
        roles=peer.organizational_units,
        sans=tuple(map(san_text, sans_of(certificate))),
        serial=f"{peer.serial:X}",
        fingerprint=peer.fingerprint,
        not_before=peer.not_before,
        not_after=peer.not_after,
        days_left=left.days,
    )


def describe(certificate: x509.Certificate) -> PeerCertificate:
    """Take from a certificate what an identity can be made of.

    Raises:
        CertsError: its extensions cannot be decoded.
    """
    names = _subject_values(certificate, NameOID.COMMON_NAME)
    uris = [n.value for n in sans_of(certificate) if isinstance(n, x509.UniformResourceIdentifier)]
    return PeerCertificate(
        common_name=names[0] if len(names) == 1 else None,
        uris=tuple(uris),
        organizational_units=_subject_values(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME),
        serial=certificate.serial_number,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        not_before=iso(certificate.not_valid_before_utc),
        not_after=iso(certificate.not_valid_after_utc),
        extended_key_usages=_usages(certificate),
    )


def kind_of(certificate: x509.Certificate) -> str:
    """Give `ca`, `server`, `client` or `other`.

    Raises:
        CertsError: its extensions cannot be decoded.
    """
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        return "ca"
    kinds: dict[tuple[str, ...], str] = {(SERVER_AUTH,): "server", (CLIENT_AUTH,): "client"}
    return kinds.get(_usages(certificate), "other")


def sans_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """Give the subject alternative names, in their order.

    Raises:
        CertsError: the extensions cannot be decoded.
    """
    return list(_extension(certificate, x509.SubjectAlternativeName) or [])


def san_text(name: x509.GeneralName) -> str:
    """Write an alternative name as people and `--san` do: `DNS:jobs.example.com`."""
    match name:
        case x509.DNSName():
            return f"DNS:{name.value}"
        case x509.IPAddress():
            return f"IP:{name.value}"
        case x509.UniformResourceIdentifier():
            return f"URI:{name.value}"
    return f"{type(name).__name__}:{name.value}"


def _usages(certificate: x509.Certificate) -> tuple[str, ...]:
    return tuple(u.dotted_string for u in _extension(certificate, x509.ExtendedKeyUsage) or [])


def _extension(certificate: x509.Certificate, cls: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(cls).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertsError(f"The certificate's extensions cannot be decoded: {error}.") from None


def _subject_values(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> tuple[str, ...]:
    with warnings.catch_warnings():
        # Of names that are too long or empty: who has such a certificate writes nothing in our log.
        warnings.simplefilter("ignore")
        found = certificate.subject.get_attributes_for_oid(oid)
    # Bytes are what a few types give that no CN or OU has; they would be no name to go by.
    return tuple(a.value for a in found if isinstance(a.value, str))


def iso(moment: datetime) -> str:
    """Write a moment of a certificate or a list: UTC, ISO 8601."""
    return timestamp(int(moment.timestamp()) * 1_000_000_000)
