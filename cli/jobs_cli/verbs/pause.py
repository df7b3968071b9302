"""`jobsctl pause` and `jobsctl resume`."""

from typing import Annotated

from cyclopts import Parameter

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.session import ask
from jobs_proto.job import Job


def pause(
    id: Annotated[str, Parameter(metavar="ID")],
    /,
    *,
    json: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> None:
    """Stop every process of a job, until it is resumed or killed.

    Its timeout goes on. The processes notice nothing: their cgroup is frozen.

    For example:

        jobsctl pause 8f14e45f

    Args:
        id: the job: its id, the start of one, or its name.
        json: print the job, as `inspect --json` does.
    """
    _show(ask(endpoint, lambda client: client.pause(id)), json=json)


def resume(
    id: Annotated[str, Parameter(metavar="ID")],
    /,
    *,
    json: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> None:
    """Let a paused job go on.

    For example:

        jobsctl resume 8f14e45f

    Args:
        id: the job: its id, the start of one, or its name.
        json: print the job, as `inspect --json` does.
    """
    _show(ask(endpoint, lambda client: client.resume(id)), json=json)


def _show(job: Job, *, json: bool) -> None:
    if json:
        output.write_job(job)
    else:
        output.say(f"job {job.id}: {job.phase}")
