"""The hooks: every place where a plugin is asked or told something. This file is the API.

A plugin is a module or an object with functions marked `@hookimpl` that bear the names below. It
takes the parameters it needs, by name, in any order, and may leave out the rest.

`jobs_identify`, `jobs_authorize`, `jobs_limits` and `jobs_event` may be `async def`, for trio: such
a hook runs on the supervisor's one thread, and must wait by trio's means only. An ordinary function
runs in a thread of its own, and may be called in several at once. Both have a deadline.
"""

from collections.abc import Mapping
from typing import Any, Final

import pluggy

from jobs_plugins.event import JobEvent
from jobs_plugins.verdict import Verdict
from jobs_proto.identity import Identity, PeerCertificate
from jobs_proto.job import Job, Limits, Spec

PROJECT: Final = "jobs"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def jobs_configure(settings: Mapping[str, Any]) -> None:
    """Take the plugin's settings; called once, as the supervisor starts, before anything is asked.

    Args:
        settings: the table `[plugins.config.NAME]` of the supervisor's settings, NAME being the
            plugin's; empty if there is none. Without this hook there must be none.

    Raises:
        Exception: whatever it is, its message is why the supervisor does not start.
    """


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
            `--privileged`, both asked in addition to `run`; or `can_i_as`: to ask what somebody
            else may, in addition to `can_i`. For each job that a `list` would show, `inspect`
            is asked; also about one that does not exist, in the place of one that is not found.
        request: the method's parameters, validated: for `run`, a `jobs_proto.methods.Run`. None
            where nobody has made that request: `can_i`, and the jobs of a `list`.
        job: the one that it is about; None for what is about no existing job.

    Returns:
        `Allow(why)`, `Deny(why)`, or None: nothing to say. If nobody says anything, it is denied.
    """


@hookspec
def jobs_limits(identity: Identity, spec: Spec) -> Limits | None:
    """Tighten a new job's limits; asked when it is allowed, before its record is written.

    Not asked again later: a job that waits in the queue keeps the limits that it was taken on with.
    The job's `limited_by` says which plugin has set which. An `update` of a limit asks again, with
    who asks and the job's spec.

    Args:
        identity: who runs it.
        spec: decoded and validated.

    Returns:
        Limits that hold besides those of the spec and of other plugins: the tightest of each
        counts, so none can be loosened (`jobs_proto.tightest`). A host that cannot enforce them
        refuses the job, unless they say `enforcement="best-effort"`; their `io_device` counts
        for nothing. None: nothing to say.

    Raises:
        JobsError: the job is refused; its code and message are the client's.
    """


@hookspec
def jobs_event(event: JobEvent) -> None:
    """Learn what happened to a job, after it is on disk.

    Each plugin is told one event after another, in the order in which they were written down. One
    that raises, or is not back within `event_s`, is told the next. Events that waited for a plugin
    when the supervisor ends are not told later.

    Args:
        event: what happened.
    """


@hookspec
def jobs_cli(app: Any) -> None:
    """Add verbs to `jobsctl`; of the entry-point group `jobs.cli`, in a module of its own.

    Called when what was typed is no verb of ours, or asks for help.

    Args:
        app: the cyclopts `App` to register them on: `app.command(function)`. `jobs_rpc.Client`
            is what our own verbs ask the supervisor with.
    """
