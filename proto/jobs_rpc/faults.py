"""Why a TLS connection failed, in words a person can act on. A table, no I/O.

OpenSSL's reasons are stable but terse, and say neither whose fault it is nor what to do. An *alert*
is what the other side told us; anything else is what we found wrong with the other side.
"""

from typing import Final

from OpenSSL import SSL

_REFUSALS: Final = {
    "certificate required": "it was shown none; is the certificate of the CA that it trusts?",
    "unknown ca": "it does not know the CA that issued it; both sides need one of the same CA",
    "certificate expired": "it has expired; issue a new one (or that host's clock is wrong)",
    "certificate revoked": "it was revoked; ask for a new one",
    "bad certificate": "it is not valid yet (a clock?), its key is too small, or it is damaged",
    "unsupported certificate": "it was issued for another purpose (extended key usage)",
    "certificate unknown": "it found a fault in it that it did not name; its log may say more",
    "access denied": "it is valid, and not welcome there",
    "decrypt error": "its signature does not verify; do certificate and CA belong together?",
}
"""Alerts about our certificate, and what is the matter with it."""

_STRANGERS: Final = (
    "wrong version number",
    "http request",
    "https proxy request",
    "packet length too long",
    "record layer failure",
    "unknown protocol",
    "bad record type",
    "unexpected message",
    "invalid alert",
    "record too small",
    "bad extension",
    "length mismatch",
)
"""What OpenSSL says of bytes that are no TLS at all."""

_VERDICTS: Final = {
    2: "it was not issued by the CA that we trust",
    7: "its signature is not its CA's: one of the same name, but another CA, issued it",
    9: "it is not valid yet; is one of the two clocks wrong?",
    10: "it has expired; issue a new one",
    11: "the list of what its CA has revoked is not valid yet; is a clock wrong?",
    18: "it was signed by nobody but itself, not by the CA that we trust",
    19: "it was not issued by the CA that we trust, but by another one",
    20: "it was not issued by the CA that we trust",
    21: "it was not issued by the CA that we trust",
    23: "it was revoked",
    26: "it was issued for another purpose (extended key usage)",
    66: "its key is too small",
}
"""X509_V_ERR_* of openssl/x509_vfy.h."""


def explain(error: SSL.Error, peer: str, verdict: int | None) -> str:
    """Say why TLS failed.

    Args:
        error: what OpenSSL raised; not one of the Want… kind.
        peer: what to call the other side: `server` or `client`.
        verdict: the X509_V_ERR_* number for the peer's certificate, if it was found wanting.
    """
    reasons = [entry[2] for entry in error.args[0]] if error.args else []
    reason = reasons[-1] if reasons else "no reason given"
    if " alert " in reason:
        return _alert(reason, peer)
    if "certificate verify failed" in reason:
        why = _VERDICTS.get(verdict or 0, f"OpenSSL's verification error {verdict}")
        return f"the {peer}'s certificate is not acceptable: {why}"
    if "did not return a certificate" in reason:
        return f"the {peer} showed no certificate; it needs one of our CA"
    if "unsupported protocol" in reason or "version too low" in reason:
        return f"the {peer} offers no TLS 1.3, and nothing older is accepted ({reason})"
    if any(known in reason for known in _STRANGERS):
        return f"what the {peer} sent is no TLS ({reason}); is this the right port?"
    return f"TLS with the {peer} failed ({reason})"


def _alert(reason: str, peer: str) -> str:
    alert = reason.partition(" alert ")[2]
    if alert in _REFUSALS:
        return f"the {peer} refused our certificate ({reason}): {_REFUSALS[alert]}"
    if alert == "protocol version":
        return f"the {peer} does not accept TLS 1.3, which is all that we speak ({reason})"
    return f"the {peer} broke off TLS ({reason})"
