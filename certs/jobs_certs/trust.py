"""What a supervisor believes: authorities, and the lists of what they have revoked.

A handshake asks OpenSSL, with these same certificates and lists. This is for a connection whose
handshake is over when they change: is its certificate still worth anything?
"""

from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen
from cryptography import x509

from jobs_certs.errors import CertsError
from jobs_certs.pem import issued_by, load_certificates, load_crls
from jobs_certs.revocation import signed_by


@frozen
class Trust:
    """Whom to believe.

    Attributes:
        authorities: whoever they signed for is believed,
        crls: but for what is on these; none, or one for each authority.
    """

    authorities: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...] = ()

    def fault(self, certificate: x509.Certificate) -> str | None:
        """Say why a certificate is not to be believed now; None: it is.

        Args:
            certificate: one that a handshake has accepted, some time ago.
        """
        if certificate.not_valid_after_utc < datetime.now(UTC):
            return "your certificate has ended; ask for a new one"
        issuer = next((each for each in self.authorities if issued_by(certificate, each)), None)
        if issuer is None:
            return "your certificate's authority is not trusted here any more; ask for a new one"
        for crl in self.crls:
            if (
                crl.issuer == issuer.subject
                and crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
                and signed_by(crl, issuer)
            ):
                return "your certificate was revoked; ask for a new one"
        return None

    def overdue(self) -> tuple[str, ...]:
        """Give the issuers whose lists should have been followed by newer ones."""
        now = datetime.now(UTC)
        return tuple(
            crl.issuer.rfc4514_string()
            for crl in self.crls
            if crl.next_update_utc is not None and crl.next_update_utc < now
        )


def load_trust(ca: Path, crl: Path | None) -> Trust:
    """Read what to believe.

    Args:
        ca: the authorities' certificates.
        crl: their lists, one for each; None: nothing is ever revoked.

    Raises:
        CertsError: a file cannot be read or holds something else, a list is of no such authority,
            or there is none for one of them.
    """
    authorities = load_certificates(ca)
    if crl is None:
        return Trust(authorities)
    crls = load_crls(crl)
    for each in crls:
        _check(each, authorities, ca, crl)
    for authority in authorities:
        own = [each for each in crls if signed_by(each, authority)]
        if len(own) != 1:
            raise CertsError(
                f"{crl} holds {len(own)} lists of {authority.subject.rfc4514_string()}, which {ca} "
                "trusts; it must hold one of each authority. Make it: jobsctl certs crl --refresh."
            )
    return Trust(authorities, crls)


def _check(
    crl: x509.CertificateRevocationList,
    authorities: tuple[x509.Certificate, ...],
    ca: Path,
    path: Path,
) -> None:
    issuer = crl.issuer.rfc4514_string()
    if not any(signed_by(crl, authority) for authority in authorities):
        raise CertsError(f"{path} holds a list of {issuer} that no authority in {ca} has signed.")
    if any(extension.critical for extension in crl.extensions):
        raise CertsError(f"{path} holds a list of {issuer} that is only a part (a delta) of it.")
