"""The authority's list of certificates that are worth nothing any more: `ca.crl`.

The list is the whole record of what was revoked: each new one holds all of the last one, so none
may be lost. It is replaced in one step, under a lock. An entry stays for ever: the list does not
say when its certificate would have ended.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from jobs_certs.authority import BACKDATE, check_days, load_authority
from jobs_certs.description import iso
from jobs_certs.errors import CertsError
from jobs_certs.files import alone_in, replace
from jobs_certs.pem import issued_by, load_certificate, load_crls

CRL = "ca.crl"
"""The list's file, beside the authority's certificate."""

CRL_DAYS = 30
"""A list that is older than this may have a successor that did not arrive; supervisors warn."""

MAX_SERIAL_DIGITS = 40
"""Hexadecimal; RFC 5280, section 4.1.2.2: 20 octets."""


@frozen(kw_only=True)
class Revocations:
    """A list, for people to read.

    Attributes:
        issuer: whose list it is, RFC 4514.
        number: how many lists there were before it, and one.
        this_update: when it was made; UTC, ISO 8601.
        next_update: when there should be another one; UTC, ISO 8601.
        days_left: whole days until then; negative afterwards.
        revoked: serial numbers, hexadecimal, as `certs show` prints them.
    """

    issuer: str
    number: int
    this_update: str
    next_update: str
    days_left: int
    revoked: tuple[str, ...]


@frozen(kw_only=True)
class Revoked:
    """What came of `revoke`.

    Attributes:
        path: the list. What is on it is worth nothing where the list arrives, and not before.
        already: serial numbers that were on it before, hexadecimal. If all were, it is as it was.
    """

    path: Path
    already: tuple[str, ...]


def revoke(
    directory: Path | str,
    certificates: Iterable[Path | str] = (),
    *,
    serials: Iterable[str] = (),
    days: int = CRL_DAYS,
) -> Revoked:
    """Put certificates on the authority's list, for ever; those that are on it stay as they are.

    Args:
        directory: the authority's.
        certificates: their files; or
        serials: their serial numbers, hexadecimal.
        days: how long the list is good for.

    Raises:
        CertsError: one was not issued by this authority, or is its own; or the list cannot be
            written.
    """
    check_days("A revocation list", days)
    directory = Path(directory)
    authority, key = load_authority(directory)
    numbers = [_serial_of(Path(path), authority) for path in certificates]
    numbers += [_serial(text) for text in serials]
    if not numbers:
        raise CertsError("Name at least one certificate: its file, or its serial number.")
    if authority.serial_number in numbers:
        raise CertsError(
            f"{authority.serial_number:X} is the authority's own certificate, which no list of its "
            "own can take back. To be rid of an authority, make another one, and replace ca.crt "
            "everywhere."
        )
    with alone_in(directory):
        last = _last(directory / CRL, authority)
        known = {entry.serial_number for entry in last or ()}
        numbers = list(dict.fromkeys(numbers))
        if new := [number for number in numbers if number not in known]:
            _write(directory / CRL, _successor(last, authority, key, days), key, new)
    already = tuple(f"{number:X}" for number in numbers if number in known)
    return Revoked(path=directory / CRL, already=already)


def refresh(directory: Path | str, *, days: int = CRL_DAYS) -> Path:
    """Make the list anew, with the same entries; or the first one, with none.

    Args:
        directory: the authority's.
        days: how long the list is good for.

    Raises:
        CertsError: there is no authority, or the list cannot be written.
    """
    check_days("A revocation list", days)
    directory = Path(directory)
    authority, key = load_authority(directory)
    with alone_in(directory):
        last = _last(directory / CRL, authority)
        _write(directory / CRL, _successor(last, authority, key, days), key, ())
    return directory / CRL


def show_crl(path: Path | str) -> Revocations:
    """Say what is on the first list of a file; whether to believe it is `load_trust`'s business.

    Raises:
        CertsError: the file cannot be read, or holds no list.
    """
    path = Path(path)
    if not path.exists():
        raise CertsError(
            f"There is no list {path}. Make an empty one: jobsctl certs crl --refresh."
        )
    crl = load_crls(path)[0]
    end = crl.next_update_utc or crl.last_update_utc
    return Revocations(
        issuer=crl.issuer.rfc4514_string(),
        number=_number(crl),
        this_update=iso(crl.last_update_utc),
        next_update=iso(end),
        days_left=(end - datetime.now(UTC)).days,
        revoked=tuple(f"{entry.serial_number:X}" for entry in crl),
    )


def _successor(
    last: x509.CertificateRevocationList | None,
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.CertificateRevocationListBuilder:
    """Begin the next list, with all that is on the last one."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - BACKDATE)
        .next_update(now + timedelta(days=days))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .add_extension(x509.CRLNumber(_number(last) + 1), critical=False)
    )
    for entry in last or ():
        builder = builder.add_revoked_certificate(entry)
    return builder


def _write(
    path: Path,
    builder: x509.CertificateRevocationListBuilder,
    key: ec.EllipticCurvePrivateKey,
    serials: Iterable[int],
) -> None:
    now = datetime.now(UTC)
    for serial in serials:
        builder = builder.add_revoked_certificate(_entry(serial, now))
    replace(path, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def _last(path: Path, authority: x509.Certificate) -> x509.CertificateRevocationList | None:
    if not path.exists():
        return None
    (last, *more) = load_crls(path)
    if more or not signed_by(last, authority):
        raise CertsError(
            f"{path} is not this authority's own list, and what it has revoked would be lost. "
            "Bring its last list back."
        )
    return last


def signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    """Whether a list is of this authority."""
    key = authority.public_key()
    try:
        return crl.issuer == authority.subject and crl.is_signature_valid(key)  # type: ignore[arg-type]
    except (ValueError, TypeError, InvalidSignature):
        return False


def _entry(serial: int, now: datetime) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
    return builder.build()


def _serial_of(path: Path, authority: x509.Certificate) -> int:
    certificate = load_certificate(path)
    if not issued_by(certificate, authority):
        raise CertsError(
            f"{path} was not issued by this authority ({authority.subject.rfc4514_string()}), and "
            "only its issuer can revoke it. Name that one's directory with --dir."
        )
    return certificate.serial_number


def _serial(text: str) -> int:
    digits = text.replace(":", "")
    try:
        number = int(digits, 16) if digits.isalnum() else 0
    except ValueError:
        number = 0
    if number == 0 or len(digits) > MAX_SERIAL_DIGITS:
        raise CertsError(
            f"{text!r} is no serial number; it is hexadecimal, as `jobsctl certs show` prints it."
        )
    return number


def _number(crl: x509.CertificateRevocationList | None) -> int:
    if crl is None:
        return 0
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0
