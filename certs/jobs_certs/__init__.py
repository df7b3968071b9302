"""The certificate authority of an installation: make it, issue, show, verify."""

from jobs_certs.authority import Issued, init, issue
from jobs_certs.description import Description, describe, show
from jobs_certs.errors import CertsError
from jobs_certs.verification import verify

__all__ = ["CertsError", "Description", "Issued", "describe", "init", "issue", "show", "verify"]
