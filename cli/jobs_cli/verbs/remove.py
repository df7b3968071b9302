"""`jobsctl remove`."""

from functools import partial
from typing import TYPE_CHECKING

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.failure import USAGE, Failure
from jobs_cli.options import Id
from jobs_cli.session import ask

if TYPE_CHECKING:
    from jobs_rpc import Client


def remove(
    *id: Id,
    endpoint: Endpoint = DEFAULT,
) -> None:
    """Forget jobs that have ended, with all of their output.

    Stops at the first that cannot be removed: one that still runs has to be killed before.

    For example:

        jobsctl remove 8f14e45f

    Args:
        id: the jobs: their ids, the starts of them, or their names.
    """
    if not id:
        raise Failure("name the jobs to remove", USAGE)
    for each in id:
        ask(endpoint, partial(_remove, each))
        output.write_lines([each])


async def _remove(job_id: str, client: "Client") -> None:
    await client.remove(job_id)
