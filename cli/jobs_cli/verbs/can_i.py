"""`jobsctl can-i`."""

from typing import Annotated

from cyclopts import Parameter

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.failure import REFUSED, checking_usage
from jobs_cli.options import Id
from jobs_cli.session import ask
from jobs_proto.methods import CanI


def can_i(
    action: Annotated[str, Parameter(metavar="ACTION")],
    id: Id | None = None,
    /,
    *,
    as_: Annotated[str | None, Parameter(name="--as", metavar="NAME")] = None,
    role: Annotated[tuple[str, ...], Parameter(metavar="ROLE")] = (),
    json: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> int:
    """Say whether you may do something, without doing it: yes or no, and why.

    It is decided as the request itself would be, by the same plugins. A job that you may not see is
    not found. Exit status: 0 for yes, 1 for no.

    For example:

        jobsctl can-i run
        jobsctl can-i kill 8f14e45f
        jobsctl can-i kill 8f14e45f --as bob --role operator

    Args:
        action: run, kill and so on; also run_as (as another Unix user), run_privileged, can_i_as.
        id: the job, for an action that is about one.
        as_: ask about somebody else; for admins.
        role: with --as: a role that stands in their certificate, which is not here to be looked at;
            may be repeated. Without it they have what the supervisor binds them to, or nothing.
        json: as JSON: {"identity": …, "roles": […], "bound": …, "allow": …, "why": …, "plugin": …}.
    """
    action = action.replace("-", "_")
    with checking_usage():
        CanI(action=action, id=id, identity=as_, roles=role)
    answer = ask(endpoint, lambda client: client.can_i(action, id, identity=as_, roles=role))
    if json:
        output.write_json(answer)
    else:
        output.write("yes\n" if answer["allow"] else "no\n")
        output.say(str(answer["why"]))
        if as_ is not None and bool(role) == answer["bound"]:
            output.say(_of_roles(as_, bound=answer["bound"]))
    return 0 if answer["allow"] else REFUSED


def _of_roles(name: str, *, bound: bool) -> str:
    """Say why the roles that were given do not count, or why there are none."""
    if bound:
        return f"{name} is bound to roles by the supervisor's settings: --role does not count"
    return f"{name} is bound to no roles, and their certificate is not here: see --role"
