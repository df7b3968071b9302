"""`jobsctl signal`."""

from typing import Annotated

from cyclopts import Parameter

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.failure import checking_usage
from jobs_cli.options import Id
from jobs_cli.session import ask
from jobs_proto import methods


def signal(
    id: Id,
    signal: Annotated[str, Parameter(metavar="SIGNAL")],
    /,
    *,
    json: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> None:
    """Send a signal to a job, and no more than that.

    Its leader's process group gets it. To end a job, with all of its processes, use `jobsctl kill`.

    For example:

        jobsctl signal 8f14e45f HUP

    Args:
        id: the job: its id, the start of one, or its name.
        signal: a signal's name or number: HUP, SIGHUP, 1.
        json: print the job, as `inspect --json` does.
    """
    with checking_usage():
        methods.Signal(id=id, signal=signal)
    job = ask(endpoint, lambda client: client.signal(id, signal))
    output.tell_job(job, f"sent {signal}", json=json)
