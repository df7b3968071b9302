"""`jobsctl inspect`."""

from jobs_cli import output
from jobs_cli.account import account
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.options import Id
from jobs_cli.session import ask


def inspect(
    id: Id,
    /,
    *,
    json: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> None:
    """Show all that is known of a job.

    That is: what was asked, by whom; where it is in its life; how it ended; what it used.

    For example:

        jobsctl inspect 8f14e45f
        jobsctl inspect nightly --json | jq .usage

    Args:
        id: the job: its id, the start of one, or its name.
        json: as JSON; the fields are those of the protocol.
    """
    job = ask(endpoint, lambda client: client.inspect(id))
    if json:
        output.write_job(job)
    else:
        output.write_lines(account(job))
