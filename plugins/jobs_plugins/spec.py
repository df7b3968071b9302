"""The hooks: every place where a plugin is asked or told something. This file is the API.

A plugin is a module or an object with functions marked `@hookimpl` that bear the names below. It
takes the parameters it needs, by name, in any order, and may leave out the rest.

`jobs_identify`, `jobs_authorize`, `jobs_limits` and `jobs_event` may be `async def`, for trio: such
a hook runs on the supervisor's one thread, and must wait by trio's means only. An ordinary function
runs in a thread of its own, and may be called in several at once. Both have a deadline.
"""

from typing import Any, Final

import pluggy

from jobs_plugins.verdict import Verdict
from jobs_proto.identity import Identity, PeerCertificate
from jobs_proto.job import Job, Limits, Spec

PROJECT: Final = "jobs"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def jobs_identify(certificate: PeerCertificate) -> Identity | None:
    """Say who bears a certificate; asked once per connection, before anything is read from it.

    The first answer counts. The built-in rule, asked last, knows everybody with a client's
    certificate; so a plugin that wants to keep somebody out raises a `JobsError`.

    Args:
        certificate: verified: signed by the installation's authority, and valid now.

    Returns:
        The identity, or None to leave it to the next plugin.

    Raises:
        JobsError: `permission_denied`: nobody we know. Its message is the connection's refusal.
    """


@hookspec
def jobs_authorize(
    identity: Identity, action: str, request: object, job: Job | None
) -> Verdict | None:
    """Say whether somebody may do something. All plugins are asked; any `Deny` wins.

    Args:
        identity: who asks.
        action: a method's name (`jobs_proto.methods`), or `run_as`: to run as a Unix user
            other than the default one, or `run_privileged`: to run with `--cap-add` or
            `--privileged`, both asked in addition to `run`. For each job that a `list`
            would show, `inspect` is asked.
        request: the method's parameters, validated: for `run`, a `jobs_proto.methods.Run`.
        job: the one that it is about; None for what is about no existing job.

    Returns:
        `Allow(why)`, `Deny(why)`, or None: nothing to say. If nobody says anything, it is denied.
    """


@hookspec
def jobs_limits(identity: Identity, spec: Spec) -> Limits | None:
    """Tighten a new job's limits.

    Specified, so that its name is taken; this version does not call it yet.

    Args:
        identity: who runs it.
        spec: decoded and validated.

    Returns:
        Limits that hold besides those of the spec and of other plugins: the tightest of each
        counts, so none can be loosened. None: nothing to say.
    """


@hookspec
def jobs_event(event: object) -> None:
    """Learn what happened to a job.

    Specified, so that its name is taken; this version does not call it yet.

    Args:
        event: what happened, after it is on disk.
    """


@hookspec
def jobs_cli(app: Any) -> None:
    """Add commands to `jobsctl`.

    Specified, so that its name is taken; this version does not call it yet.

    Args:
        app: the cyclopts `App` to register them on.
    """
