"""The verbs, put together into one program."""

from collections.abc import Callable
from typing import Final

from attrs import frozen
from cyclopts import App, Parameter

from jobs_cli import output
from jobs_cli.prose import parameters_joined, prose
from jobs_cli.verbs.audit import audit
from jobs_cli.verbs.can_i import can_i
from jobs_cli.verbs.certs import certs
from jobs_cli.verbs.follow import follow, logs
from jobs_cli.verbs.inspect import inspect
from jobs_cli.verbs.kill import kill
from jobs_cli.verbs.list import list_
from jobs_cli.verbs.pause import pause, resume
from jobs_cli.verbs.plugins import plugins
from jobs_cli.verbs.policy import policy
from jobs_cli.verbs.remove import remove
from jobs_cli.verbs.run import run
from jobs_cli.verbs.shell_init import shell_init
from jobs_cli.verbs.signal import signal
from jobs_cli.verbs.update import update
from jobs_cli.verbs.version import version, version_text
from jobs_cli.verbs.wait import wait
from jobs_cli.verbs.whoami import whoami

HELP: Final = """Run any command on a Linux host, remotely and safely.

For example:

    jobsctl run -f make test      run it, see its output, exit as it did
    jobsctl run sleep 600         prints the id of the job
    jobsctl list                  what is running
    jobsctl follow ID             its output, from the first byte on
    jobsctl kill ID               all of its processes, proved dead

An ID may be the start of one, or a job's name. Each verb explains itself: jobsctl run --help.

`jobs` is the same program, but your shell has a builtin of that name, which comes first:
jobsctl shell-init --help shows how to have both.

The options --config --context --server --ca --cert --key say whom to talk to, as whom, and may
stand before or after the verb; see jobsctl whoami --help."""


@frozen
class Verb:
    """One verb.

    Attributes:
        does: the function.
        name: as it is typed.
        aliases: other names that people will type.
        usage: what follows the name, where that is not evident.
        with_command: everything from its first argument on is a command for a job.
    """

    does: Callable[..., int | None]
    name: str
    aliases: tuple[str, ...] = ()
    usage: str | None = None
    with_command: bool = False


VERBS: Final = (
    Verb(run, "run", usage="[OPTIONS] [--] COMMAND [ARG…]", with_command=True),
    Verb(list_, "list", ("ls", "ps")),
    Verb(inspect, "inspect"),
    Verb(follow, "follow"),
    Verb(logs, "logs"),
    Verb(kill, "kill", ("stop",), usage="[OPTIONS] ID… | --all"),
    Verb(wait, "wait", usage="[OPTIONS] ID…"),
    Verb(signal, "signal"),
    Verb(pause, "pause"),
    Verb(resume, "resume"),
    Verb(update, "update"),
    Verb(remove, "remove", ("rm",), usage="ID…"),
    Verb(whoami, "whoami"),
    Verb(can_i, "can-i", usage="ACTION [ID] [--as NAME [--role ROLE]…]"),
    Verb(plugins, "plugins"),
    Verb(shell_init, "shell-init"),
    Verb(version, "version"),
)

WITH_COMMAND: Final = tuple(verb.name for verb in VERBS if verb.with_command)


def make_app(program: str) -> App:
    """Make the program.

    Args:
        program: the name it was called by, for its usage.
    """
    app = App(
        name=program,
        help=prose(HELP),
        version=version_text,
        help_format="plaintext",
        help_formatter="default" if output.stdout_is_terminal() else "plain",
        default_parameter=Parameter(negative=(), show_default=False),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for number, verb in enumerate(VERBS):
        _join_parameters(verb.does)
        app.command(
            verb.does,
            name=verb.name,
            alias=verb.aliases,
            help=prose(verb.does.__doc__ or ""),
            usage=f"Usage: {program} {verb.name} {verb.usage}" if verb.usage else None,
            sort_key=number,
        )
    for group in (certs, audit, policy):
        app.command(_in_paragraphs(group))
    return app


def _in_paragraphs(group: App) -> App:
    """Have the help of the verbs within one cut by the terminal's width, as that of the others."""
    for name in verb_names(group):
        verb = group[name]
        verb.help = prose(getattr(verb.default_command, "__doc__", None) or "")
        _join_parameters(verb.default_command)
    return group


def _join_parameters(verb: Callable[..., object] | None) -> None:
    """Have the help of a verb's options cut in the same way; cyclopts takes it from the verb."""
    if verb is not None:
        verb.__doc__ = parameters_joined(verb.__doc__ or "")


def verb_names(app: App) -> list[str]:
    """Give every name that a verb can be called by."""
    return [name for name in app if not name.startswith("-")]
