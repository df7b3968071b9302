"""Who is let in, and what they may: all that SIGHUP reads anew, as one thing.

It is whole before anybody gets to see it, and then takes the old one's place in one step: there is
no moment at which the new list of the revoked counts and the new policy does not.
"""

from pathlib import Path

import structlog
from attrs import evolve, fields, frozen
from OpenSSL import SSL

from jobs_certs import WARN_DAYS, Trust, load_trust, show
from jobs_plugins.policy import Policy
from jobs_proto.errors import JobsError
from jobs_rpc.context import server_context
from jobs_supervisor.config import Settings

log = structlog.get_logger()

RELOADED = ("ca", "cert", "key", "crl")
"""Of `[server]`, with their files."""


@frozen
class Access:
    """Who is let in.

    Attributes:
        context: for handshakes.
        trust: for those who are in already.
        policy: what they may.
        cert: the file of our own certificate.
    """

    context: SSL.Context
    trust: Trust
    policy: Policy
    cert: Path


def load_access(settings: Settings) -> Access:
    """Read certificates and lists.

    Raises:
        JobsError: `failed_precondition`: one of our own files is not as it must be.
        CertsError: the same, of the authorities and their lists.
    """
    server = settings.server
    trust = load_trust(server.ca, server.crl)
    context = server_context(server.cert, server.key, server.ca, trust.crls)
    if (kind := show(server.cert).kind) != "server":
        raise JobsError(
            "failed_precondition",
            f"{server.cert} is a {kind}'s certificate; issue one with --role server",
        )
    return Access(context, trust, settings.policy, server.cert)


def warn_of_age(access: Access) -> None:
    """Say in the log what ends soon, or should have been followed by something newer."""
    for issuer in access.trust.overdue():
        log.warning("the list of the revoked should have been followed by a newer one", of=issuer)
    left = show(access.cert).days_left
    if left < WARN_DAYS:
        log.warning("our certificate ends soon", file=str(access.cert), days_left=left)


def tell_unruled(policy: Policy) -> None:
    """Say in the log which roles are bound and mean nothing here: plugins may have such, or not."""
    if roles := policy.unruled:
        log.info("no rule is about these bound roles; only a plugin can allow them any", of=roles)


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """Name the settings that differ, and count only from the next start on."""
    server = evolve(new.server, **{name: getattr(old.server, name) for name in RELOADED})
    new = evolve(new, server=server, policy=old.policy)
    return [
        f"{section.name}.{field.name}"
        for section in fields(Settings)
        if section.name != "state_dir"
        for field in fields(type(getattr(old, section.name)))
        if getattr(getattr(old, section.name), field.name)
        != getattr(getattr(new, section.name), field.name)
    ] + ["state_dir"] * (old.state_dir != new.state_dir)
