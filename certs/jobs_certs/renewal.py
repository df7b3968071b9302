"""Renewal: the same name, roles and hosts, a new key, another serial number.

Theory. Two files cannot be replaced at once, so a renewal is written whole under `renewing/` before
anything of the old pair is touched; from then on it can only go forward: revoke the old one if that
is wanted, keep the old pair under `old/`, put the new key in its place, then the new certificate.
Whatever interrupts this, the next `renew` of the name finds `renewing/NAME.crt` and does the rest.
"""

from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from jobs_certs.authority import (
    CLIENT_DAYS,
    SERVER_DAYS,
    Issued,
    key_pem,
    load_authority,
    sign,
)
from jobs_certs.description import kind_of
from jobs_certs.errors import CertsError
from jobs_certs.files import alone_in, keep, make_private, move, write_pair
from jobs_certs.names import check_subject
from jobs_certs.pem import issued_by, load_certificate
from jobs_certs.revocation import revoke

KEPT = (x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
"""Extensions that say who it is and what for; the rest is the same for everybody."""


def renew(
    directory: Path | str, name: str, *, days: int | None = None, revoke_old: bool = False
) -> Issued:
    """Put a new pair in the place of `NAME.crt` and `NAME.key`; the old one goes to `old/`.

    The old certificate stays good until it ends or is revoked: nobody who uses it is cut off.

    Args:
        directory: the authority's, and the pair's.
        name: as it was issued.
        days: how long the new one is valid; None: as `issue` has it.
        revoke_old: put the old one on the authority's list.

    Raises:
        CertsError: there is no such certificate of this authority, or files cannot be written.
    """
    directory = Path(directory)
    check_subject(name)
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    old = _of_authority(certificate, directory)
    new = directory / "renewing"
    make_private(new)
    with alone_in(new):
        if not _cut_short(new / f"{name}.crt", old):
            _make(directory, new, name, old, days)
        if revoke_old:
            revoke(directory, [certificate])
        if (new / f"{name}.key").exists():  # else it is in its place already, and the old one kept
            _keep_old(directory, name, old)
            move(new / f"{name}.key", key)
        move(new / f"{name}.crt", certificate)
        with suppress(OSError):  # another name's is in it
            new.rmdir()
    return Issued(certificate=certificate, key=key)


def _keep_old(directory: Path, name: str, old: x509.Certificate) -> None:
    make_private(directory / "old")
    for suffix in (".key", ".crt"):  # never a certificate without its key
        path = directory / f"{name}{suffix}"
        if path.exists():  # a key may have gone to its holder
            keep(path, directory / "old" / f"{name}-{old.serial_number:X}{suffix}")


def _of_authority(path: Path, directory: Path) -> x509.Certificate:
    authority, _ = load_authority(directory)
    if not path.exists():
        raise CertsError(
            f"There is no certificate {path} to renew. Name one as it was issued, or issue it: "
            "jobsctl certs issue."
        )
    certificate = load_certificate(path)
    if not issued_by(certificate, authority):
        raise CertsError(
            f"{path} was not issued by the authority in {directory}; issue a new one there."
        )
    if kind_of(certificate) not in ("server", "client"):
        raise CertsError(f"{path} is neither a server's nor a client's, and cannot be renewed.")
    return certificate


def _cut_short(path: Path, old: x509.Certificate) -> bool:
    """Whether `path` is the renewal of `old`, and not of one that has since been issued anew."""
    if not path.exists():
        return False
    new = load_certificate(path)
    return (
        new.subject == old.subject
        and _kept(new) == _kept(old)
        and new.not_valid_before_utc >= old.not_valid_before_utc
    )


def _kept(certificate: x509.Certificate) -> list[x509.ExtensionType]:
    return [each.value for each in certificate.extensions if isinstance(each.value, KEPT)]


def _make(directory: Path, new: Path, name: str, old: x509.Certificate, days: int | None) -> None:
    by_default = SERVER_DAYS if kind_of(old) == "server" else CLIENT_DAYS
    key, certificate = sign(directory, old.subject, _kept(old), days, by_default)
    for suffix in (".crt", ".key"):  # what is there was never in anybody's place
        (new / f"{name}{suffix}").unlink(missing_ok=True)
    write_pair(new, name, key_pem(key), certificate.public_bytes(Encoding.PEM))
