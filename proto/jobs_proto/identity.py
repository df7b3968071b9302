"""Who is at the other end: what a certificate says, and the identity that is made of it.

Pure data: `jobs_certs` fills a `PeerCertificate`, a plugin makes an `Identity` of it.
Not for the shim: attrs would be paid for by every job.
"""

from collections.abc import Iterable
from typing import Final

from attrs import field, frozen

SERVER_AUTH: Final = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH: Final = "1.3.6.1.5.5.7.3.2"
"""Extended key usages, RFC 5280 section 4.2.1.12."""

MAX_NAME = 2048
"""Characters of an identity's name: a SPIFFE ID's limit, the longest name that can come."""


def check_name(name: str) -> None:
    """Refuse a name that cannot be shown, or that can be mistaken for another one when shown.

    Raises:
        ValueError: a sentence that says what is wrong with it.
    """
    if not name:
        raise ValueError("the name is empty")
    if len(name) > MAX_NAME:
        raise ValueError(f"the name has {len(name)} characters; {MAX_NAME} are the limit")
    # Control characters, but also U+202E and its kind, which make a terminal show another name.
    if not name.isprintable():
        raise ValueError(f"the name {name!a} holds characters that cannot be shown")
    if name != name.strip():
        raise ValueError(f"the name {name!r} begins or ends with a space")


def _name(_identity: object, _field: object, name: str) -> None:
    check_name(name)


def _words(_identity: object, _field: object, words: tuple[str, ...]) -> None:
    for word in words:
        check_name(word)


def _sorted(words: Iterable[str]) -> tuple[str, ...]:
    if isinstance(words, str):  # would become one for each letter
        raise TypeError(f"this is a list of words, not the one word {words!r}")
    return tuple(sorted(set(words)))


@frozen(kw_only=True)
class PeerCertificate:
    """What a certificate says. Whether that is true was settled before, by the TLS handshake.

    Attributes:
        common_name: the subject's one CN; None if it has none or several.
        uris: the URIs of the subject alternative name, in the certificate's order.
        organizational_units: the subject's OUs, in the certificate's order.
        serial: up to 159 bits, and so too large for a MessagePack integer.
        fingerprint: SHA-256 of the DER, 64 lower-case hexadecimal digits.
        not_before: the first moment it is valid; UTC, ISO 8601.
        not_after: the last moment it is valid; UTC, ISO 8601.
        extended_key_usages: dotted object identifiers, as `CLIENT_AUTH`; empty if there are none.
    """

    common_name: str | None
    uris: tuple[str, ...] = ()
    organizational_units: tuple[str, ...] = ()
    serial: int
    fingerprint: str
    not_before: str
    not_after: str
    extended_key_usages: tuple[str, ...] = ()


@frozen(kw_only=True)
class Identity:
    """Somebody who may ask. Jobs belong to the name, so they survive the certificate's renewal.

    Attributes:
        name: who it is; the owner of the jobs that are run under it.
        roles: what it may, sorted, each once; words that rules know.
        groups: those of the supervisor's settings that it is in, sorted, each once.
        bound: the roles are those of the supervisor's settings, whatever the certificate says.
        fingerprint: of the certificate that proved it.
        not_after: when that certificate ends; UTC, ISO 8601.

    Raises:
        ValueError: the name, a role or a group cannot be shown.
    """

    name: str = field(validator=_name)
    roles: tuple[str, ...] = field(default=(), converter=_sorted, validator=_words)
    groups: tuple[str, ...] = field(default=(), converter=_sorted, validator=_words)
    bound: bool = False
    fingerprint: str
    not_after: str
