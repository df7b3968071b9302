"""Whether a certificate would be believed, and if not, why, before anyone meets it in a handshake.

The last word has the library's path validation (RFC 5280 and the web PKI's profile of it). What
people actually get wrong is checked before it, since its own words for that are few: the wrong
authority, the dates, the purpose, the key beside it.
"""

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from jobs_certs.description import kind_of, san_text, sans_of
from jobs_certs.errors import CertsError
from jobs_certs.names import host_name
from jobs_certs.pem import issued_by, load_certificate, load_key
from jobs_certs.revocation import CRL
from jobs_certs.trust import load_trust

Host = x509.DNSName | x509.IPAddress


def verify(path: Path | str, *, ca: Path | str | None = None, host: str | None = None) -> str:
    """Check a certificate as its peers will: signed by `ca`, valid now, fit for its purpose.

    If the authority's list lies beside `ca` (`ca.crl`), that it is not on it; if its key lies
    beside it (`NAME.key`), that it is its key, and closed to others.

    Args:
        path: the certificate.
        ca: the authority's certificate; None: `ca.crt` beside it.
        host: for a server, the name or address that clients will ask for.

    Returns:
        Its kind: `ca`, `server` or `client`.

    Raises:
        CertsError: the first reason not to believe it.
    """
    path = Path(path)
    if ca is None and not path.with_name("ca.crt").exists():
        raise CertsError(f"There is no ca.crt beside {path}. Name the authority's with --ca.")
    ca = Path(ca) if ca else path.with_name("ca.crt")
    certificate, authority = load_certificate(path), load_certificate(ca)
    if kind_of(authority) != "ca":
        raise CertsError(f"{ca} is no authority's certificate. Name the ca.crt of `certs init`.")
    _check_issuer(path, certificate, authority)
    _check_time(authority, f"The authority {authority.subject.rfc4514_string()}")
    _check_time(certificate, str(path))
    _check_list(path, certificate, ca)
    kind = kind_of(certificate)
    if host is not None and kind != "server":
        raise CertsError(f"{path} is no server's certificate ({kind}): it stands for no host.")
    match kind:
        case "server":
            _check_server(path, certificate, authority, host)
        case "client":
            _check_client(path, certificate, authority)
        case "other":
            raise CertsError(
                f"{path} must be for either servers or clients (extended key usage serverAuth or "
                "clientAuth), and for nothing else. Issue a new one."
            )
    _check_key(path, certificate)
    return kind


def _check_issuer(path: Path, certificate: x509.Certificate, authority: x509.Certificate) -> None:
    if not issued_by(certificate, authority):
        raise CertsError(
            f"{path} was not signed by this authority ({authority.subject.rfc4514_string()}) but "
            f"by {certificate.issuer.rfc4514_string()}, or by a key of the same name. Name the "
            "authority that issued it, or have a new one issued."
        )


def _check_time(certificate: x509.Certificate, what: str) -> None:
    now = datetime.now(UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        raise CertsError(f"{what} was valid until {last:%Y-%m-%d %H:%M:%S} UTC. Issue a new one.")
    if now < first:
        raise CertsError(
            f"{what} is valid only from {first:%Y-%m-%d %H:%M:%S} UTC on. Is this host's clock "
            f"right ({now:%Y-%m-%d %H:%M:%S} UTC)?"
        )


def _check_list(path: Path, certificate: x509.Certificate, ca: Path) -> None:
    crl = ca.with_name(CRL)
    if crl.exists() and load_trust(ca, crl).fault(certificate):
        raise CertsError(f"{path} was revoked: it is on the list {crl}. Issue a new one.")


def _check_server(
    path: Path, certificate: x509.Certificate, authority: x509.Certificate, host: str | None
) -> None:
    sans = sans_of(certificate)
    hosts = [n for n in sans if isinstance(n, x509.DNSName | x509.IPAddress)]
    if not hosts:
        raise CertsError(f"{path} names no host, and no client would accept it. Issue a new one.")
    # By one of its own names first: what fails then is not the name.
    failure = _server_failure(certificate, authority, hosts[0])
    if failure:
        raise CertsError(f"{path} is not to be believed: {failure}.")
    if host is not None:
        wanted = host_name(host)
        if wanted is None or _server_failure(certificate, authority, wanted):
            raise CertsError(
                f"{path} does not name {host}; it names {', '.join(map(san_text, sans))}. "
                "Connect by one of these, or issue one for that name."
            )


def _server_failure(
    certificate: x509.Certificate, authority: x509.Certificate, host: Host
) -> VerificationError | None:
    builder = PolicyBuilder().store(Store([authority]))
    try:
        builder.build_server_verifier(host).verify(certificate, [])
    except VerificationError as error:
        return error
    return None


def _check_client(path: Path, certificate: x509.Certificate, authority: x509.Certificate) -> None:
    # The web's profile wants an alternative name; our clients are named by their CN.
    policy = ExtensionPolicy.webpki_defaults_ee().may_be_present(
        x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
    )
    builder = PolicyBuilder().store(Store([authority]))
    builder = builder.extension_policies(
        ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=policy
    )
    try:
        builder.build_client_verifier().verify(certificate, [])
    except VerificationError as error:
        raise CertsError(f"{path} is not to be believed: {error}.") from None


def _check_key(path: Path, certificate: x509.Certificate) -> None:
    key = path.with_suffix(".key")
    if key.exists() and load_key(key).public_key() != certificate.public_key():
        raise CertsError(f"{key} is not the key of {path}. Bring the two that belong together.")
