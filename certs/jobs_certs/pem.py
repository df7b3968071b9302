"""Certificates, keys and revocation lists, read from PEM files."""

import re
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from jobs_certs.errors import CertsError
from jobs_certs.files import read, read_private

_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


def load_certificate(path: Path) -> x509.Certificate:
    """Read a certificate; the first one, if the file holds a chain.

    Raises:
        CertsError: the file cannot be read or holds no certificate.
    """
    return load_certificates(path)[0]


def load_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Read every certificate of a file.

    Raises:
        CertsError: the file cannot be read or holds none.
    """
    data = read(path)
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError:
        raise CertsError(
            f"{path} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)."
        ) from None


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether a certificate bears this authority's name as its issuer's, and its signature."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def load_crls(path: Path) -> tuple[x509.CertificateRevocationList, ...]:
    """Read every revocation list of a file.

    Raises:
        CertsError: the file cannot be read, holds none, or one that is damaged.
    """
    blocks = _CRL.findall(read(path))
    try:
        lists = tuple(map(x509.load_pem_x509_crl, blocks))
    except ValueError as error:
        raise CertsError(f"{path} holds a revocation list that is damaged: {error}.") from None
    if not lists:
        raise CertsError(f"{path} holds no revocation list in PEM (-----BEGIN X509 CRL-----).")
    return lists


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key of ours.

    Raises:
        CertsError: it cannot be read, others can read it, or it is of another kind.
    """
    try:
        key = load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise CertsError(f"{path} holds no private key that can be used: {error}.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertsError(f"{path} holds a key that is not on an elliptic curve, as ours are.")
    return key
