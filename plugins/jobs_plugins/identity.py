"""The built-in answer to who somebody is: the certificate's one URI or its CN, its OUs as roles."""

import re
from typing import Final

from jobs_plugins.spec import hookimpl
from jobs_proto.errors import JobsError
from jobs_proto.identity import CLIENT_AUTH, Identity, PeerCertificate

_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.+", re.DOTALL)
"""RFC 3986, section 4.3, as far as it matters here; RFC 5280, section 4.2.1.6, wants no others."""


@hookimpl(trylast=True)  # a site's own rule is asked before
def jobs_identify(certificate: PeerCertificate) -> Identity:
    """Make an identity of every certificate that is a client's and names one.

    Raises:
        JobsError: it is not, or does not.
    """
    if CLIENT_AUTH not in certificate.extended_key_usages:
        raise _refused("it is not for clients (it lacks the extended key usage clientAuth)")
    try:
        return Identity(
            name=_name(certificate),
            roles=certificate.organizational_units,
            fingerprint=certificate.fingerprint,
            not_after=certificate.not_after,
        )
    except ValueError as error:
        raise _refused(str(error)) from None


def _name(certificate: PeerCertificate) -> str:
    match certificate.uris:
        case [uri]:
            # One without its scheme would be the same identity as a certificate with that CN.
            if uri and not _ABSOLUTE.fullmatch(uri):
                raise _refused(f"its URI {uri!r} has no scheme, and reads as a CN")
            return uri
        case [_, *_]:
            raise _refused(f"it has {len(certificate.uris)} URIs, and so names no one identity")
    if certificate.common_name is None:
        raise _refused("it has no URI, and not exactly one CN")
    # A CN that reads as a URI would be the same identity as a certificate with that URI.
    if ":" in certificate.common_name:
        raise _refused(f"its CN {certificate.common_name!r} reads as a URI; make it one")
    if certificate.common_name.startswith("@"):
        raise _refused(f"its CN {certificate.common_name!r} reads as a group")
    return certificate.common_name


def _refused(why: str) -> JobsError:
    return JobsError(
        "permission_denied",
        f"This certificate names nobody: {why}. Have one issued: jobsctl certs issue.",
    )
