"""`jobsctl pause` and `jobsctl resume`."""

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.options import Id
from jobs_cli.session import ask


def pause(
    id: Id,
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
    job = ask(endpoint, lambda client: client.pause(id))
    output.tell_job(job, job.phase, json=json)


def resume(
    id: Id,
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
    job = ask(endpoint, lambda client: client.resume(id))
    output.tell_job(job, job.phase, json=json)
