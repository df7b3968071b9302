"""What may stand in a certificate: names, roles, and subject alternative names."""

import ipaddress
import re
from collections.abc import Iterable, Sequence

from cryptography import x509

from jobs_certs.errors import CertsError
from jobs_proto.identity import check_name

SERVER = "server"
"""The one role that makes a server's certificate; all others are a client's."""

MAX_COMMON_NAME = 64
"""Bytes of UTF-8. X.520's ub-common-name counts characters, but libraries count these."""

_ROLE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_DNS_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)+")
_PREFIX = re.compile(r"(?:(dns|ip|uri):)?(.*)", re.IGNORECASE | re.DOTALL)


def check_subject(name: str) -> None:
    """Refuse a name that cannot be a subject's CN, an identity's name and a file's name at once.

    Raises:
        CertsError: what is wrong with it.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise _bad_subject(str(error)) from None
    size = len(name.encode())
    if size > MAX_COMMON_NAME:
        raise _bad_subject(f"it takes {size} bytes, and a certificate has {MAX_COMMON_NAME} for it")
    if "/" in name or "\\" in name:
        raise _bad_subject(f"{name!r} holds a path separator")
    if name[0] in ".-":
        raise _bad_subject(f"{name!r} begins with a dot or a dash")
    if name == "ca":
        raise _bad_subject("'ca' is the name of the authority's own files")


def _bad_subject(why: str) -> CertsError:
    return CertsError(
        f"This cannot be a certificate's name: {why}. Take a word such as alice, build-bot or "
        "jobs.example.com: it becomes the identity's name and the name of its files."
    )


def roles_of(role: str | Sequence[str]) -> tuple[str, ...]:
    """Give the roles asked for, each once, in their order.

    Raises:
        CertsError: there is none, one is no role word, or `server` is not alone.
    """
    roles = tuple(dict.fromkeys([role] if isinstance(role, str) else role))
    if not roles:
        raise CertsError("A certificate needs a role: server, admin, operator or viewer.")
    for word in roles:
        if not _ROLE.fullmatch(word):
            raise CertsError(
                f"{word!r} is no role: a role is a lower-case letter, then at most 63 lower-case "
                "letters, digits or dashes, such as server, admin, operator or viewer."
            )
    if SERVER in roles and len(roles) > 1:
        raise CertsError(
            "One certificate cannot be a server's and a client's. Issue two, under two names."
        )
    return roles


def host_names(name: str, sans: Iterable[str]) -> list[x509.GeneralName]:
    """Give the names under which clients will find a server: `sans`, or else its own name.

    Raises:
        CertsError: there is none, or one is neither a host name nor an address.
    """
    texts = list(dict.fromkeys(sans))
    if not texts and host_name(name) is None:
        raise CertsError(
            f"Clients check that a server's certificate names the host they asked for, and "
            f"{name!r} is no host name. Give at least one with --san: a DNS name or an address."
        )
    return [_required_host(text) for text in texts or [name]]


def _required_host(text: str) -> x509.GeneralName:
    host = host_name(text)
    if host is None:
        raise CertsError(
            f"{text!r} is neither a DNS name nor an IP address, and a server's certificate holds "
            "nothing else. Write jobs.example.com or 192.0.2.7, without port or path; "
            "names outside ASCII in their xn-- form."
        )
    return host


def host_name(text: str) -> x509.DNSName | x509.IPAddress | None:
    """Read a host: `jobs.example.com`, `192.0.2.7`, `::1`; `DNS:` or `IP:` may stand before it.

    Returns:
        None, if it is neither.
    """
    kind, value = _split(text)
    if kind in (None, "ip"):
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            pass
        else:
            # A scope (fe80::1%eth0) means something on one host only.
            return None if "%" in value else x509.IPAddress(address)
    if kind in (None, "dns") and _is_dns_name(value.lower()):
        return x509.DNSName(value.lower())
    return None


def _is_dns_name(value: str) -> bool:
    labels = value.split(".")
    # All digits at the end is an address with a mistake in it: 10.0.0.256.
    return (
        len(value) <= 253
        and all(_DNS_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )


def check_client(name: str) -> None:
    """Refuse a client's name that reads as a URI or as a group of the supervisor's settings.

    Raises:
        CertsError: it holds a colon, or begins with @.
    """
    if name.startswith("@"):
        raise _bad_subject(f"{name!r} begins with @, as only groups do")
    if ":" in name:
        raise _bad_subject(f"{name!r} holds a colon, as only URIs do; give a SPIFFE ID with --san")


def spiffe_id(sans: Iterable[str]) -> list[x509.GeneralName]:
    """Give the one URI that a client's certificate may hold, or nothing.

    Source: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md

    Raises:
        CertsError: there are several, or it is no SPIFFE ID.
    """
    texts = list(dict.fromkeys(sans))
    if len(texts) > 1:
        raise CertsError(
            f"A client's certificate names one identity, and so has one URI at most, not "
            f"{len(texts)}. Issue one certificate for each."
        )
    return [_required_spiffe(text) for text in texts]


def _required_spiffe(text: str) -> x509.GeneralName:
    kind, value = _split(text)
    if kind not in (None, "uri") or len(value) > 2048 or not _SPIFFE.fullmatch(value):
        raise CertsError(
            f"{text!r} cannot be in a client's certificate: the only alternative name there is a "
            "SPIFFE ID, such as spiffe://example.com/ci/builder. (Host names are for servers: "
            "--role server.)"
        )
    return x509.UniformResourceIdentifier(value)


def _split(text: str) -> tuple[str | None, str]:
    """Cut a kind off: `DNS:x` → (dns, x). An IPv6 address has colons too, but no such kind."""
    found = _PREFIX.fullmatch(text)
    assert found
    return found[1].lower() if found[1] else None, found[2]
