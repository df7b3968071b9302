"""The TLS settings of each side, from its files: certificate, key, CA.

TLS 1.3 only, both sides verified against one CA. No session is ever resumed: a resumed session
would skip the look at the certificate, which by then may be revoked or expired.
"""

import os
import shlex
import stat
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Final

from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.x509 import CertificateRevocationList
from OpenSSL import SSL, crypto

from jobs_proto.errors import JobsError

AnyPath = str | PathLike[str]


OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
"""The permission bits of everybody but the owner."""

CRL_OF_ANOTHER_TIME: Final = (11, 12)
"""X509_V_ERR_CRL_NOT_YET_VALID and X509_V_ERR_CRL_HAS_EXPIRED of openssl/x509_vfy.h."""


def server_context(
    cert: AnyPath,
    key: AnyPath,
    ca: AnyPath,
    crls: Sequence[CertificateRevocationList] = (),
) -> SSL.Context:
    """Make the supervisor's side: clients must show a certificate of `ca` that is not revoked.

    A list that should have been followed by another one still counts, and one that is of tomorrow
    by our clock does already: it is right about those that are on it, and to refuse everybody else
    for it would help nobody.

    Args:
        cert: PEM file: our certificate, then any intermediate ones.
        key: PEM file: its private key, not encrypted; if it is ours, nobody else may read it.
        ca: PEM file: the certificates that clients' are verified against.
        crls: what was revoked: none, or a list of each authority in `ca`.

    Raises:
        JobsError: `failed_precondition`; the sentence names the file.
    """
    context = _context(SSL.TLS_SERVER_METHOD, cert, key, ca)
    store = context.get_cert_store()
    if crls and store is not None:
        for crl in crls:
            store.add_crl(crl)
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
    return context


def client_context(cert: AnyPath, key: AnyPath, ca: AnyPath) -> SSL.Context:
    """Make the client's side; as `server_context`. The server's name is `TLSStream`'s to check."""
    return _context(SSL.TLS_CLIENT_METHOD, cert, key, ca)


def _context(method: int, cert: AnyPath, key: AnyPath, ca: AnyPath) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    # An idle connection gives its two record buffers back: 34 kB for each waiting follower.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # One call writes all the records that there is room for, not one of them.
    context.clear_mode(Binding.lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _keep_verdict)
    _load_identity(context, cert, key)
    _load_ca(context, ca)
    return context


def _keep_verdict(
    connection: SSL.Connection, _cert: crypto.X509, verdict: int, _depth: int, ok: int
) -> bool:
    """Leave the reason where `TLSStream` finds it: OpenSSL's error only says that there was one."""
    if ok or verdict in CRL_OF_ANOTHER_TIME:
        return True
    connection.set_app_data(verdict)
    return False


def _load_identity(context: SSL.Context, cert: AnyPath, key: AnyPath) -> None:
    _read(cert, "certificate")
    try:
        context.use_certificate_chain_file(fspath(cert))
    except SSL.Error:
        raise _fault(cert, "it holds no certificate in PEM form") from None
    if b"ENCRYPTED" in _read(key, "private key", ours_alone=True):
        # OpenSSL would ask on the terminal, and a daemon would stand still there.
        raise _fault(key, "the key is encrypted; write it without a passphrase, readable by you")
    try:
        context.use_privatekey_file(fspath(key))
    except SSL.Error as error:
        if "mismatch" in str(error):
            raise _fault(key, f"this is not the key of the certificate {fspath(cert)}") from None
        raise _fault(key, "it holds no private key in PEM form") from None


def _load_ca(context: SSL.Context, ca: AnyPath) -> None:
    _read(ca, "CA certificate")
    try:
        context.load_verify_locations(fspath(ca))
    except SSL.Error:
        raise _fault(ca, "it holds no CA certificate in PEM form") from None


def _read(path: AnyPath, what: str, *, ours_alone: bool = False) -> bytes:
    try:
        with Path(path).open("rb") as file:
            if ours_alone:
                _refuse_open(path, os.fstat(file.fileno()))
            return file.read()
    except OSError as error:
        raise JobsError(
            "failed_precondition", f"cannot read the {what} {fspath(path)}: {error.strerror}"
        ) from None


def _refuse_open(key: AnyPath, info: os.stat_result) -> None:
    """Refuse a key of ours that others may read, as ssh does; of others' files we know too little.

    One that root owns and shares with a group, say, is as somebody who may do so wants it.
    """
    if info.st_uid == os.geteuid() and info.st_mode & OTHERS:
        raise _fault(
            key,
            f"the key is open to others (mode {stat.S_IMODE(info.st_mode):04o}), and is not used. "
            f"If nobody can have copied it, chmod 600 {shlex.quote(fspath(key))}; otherwise have "
            "a new one issued",
        )


def _fault(path: AnyPath, why: str) -> JobsError:
    return JobsError("failed_precondition", f"{fspath(path)}: {why}")
