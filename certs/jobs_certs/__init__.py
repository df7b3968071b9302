"""The certificate authority of an installation: make it, issue, renew, revoke, show, verify."""

from jobs_certs.authority import Issued, init, issue
from jobs_certs.description import WARN_DAYS, Description, describe, show
from jobs_certs.errors import CertsError
from jobs_certs.renewal import renew
from jobs_certs.revocation import CRL_DAYS, Revocations, Revoked, refresh, revoke, show_crl
from jobs_certs.trust import Trust, load_trust
from jobs_certs.verification import verify

__all__ = [
    "CRL_DAYS",
    "WARN_DAYS",
    "CertsError",
    "Description",
    "Issued",
    "Revocations",
    "Revoked",
    "Trust",
    "describe",
    "init",
    "issue",
    "load_trust",
    "refresh",
    "renew",
    "revoke",
    "show",
    "show_crl",
    "verify",
]
