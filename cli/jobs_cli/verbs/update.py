"""`jobsctl update`."""

from typing import TYPE_CHECKING, Any

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.failure import USAGE, Failure, checking_usage
from jobs_cli.options import Id, given, options_of
from jobs_cli.session import ask
from jobs_proto import methods

if TYPE_CHECKING:
    Changes = Any  # what a class made at run time is to a type checker
else:
    Changes = options_of(methods.Update, skip=frozenset({"id"}))


def update(
    id: Id,
    /,
    *,
    changes: Changes = None,
    json: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> None:
    """Change limits of a job that has not ended.

    A job that waits because its output is full (--output-policy block) goes on when the cap is
    raised. A new timeout counts from the job's start, as the first one did; one that has fired
    stays so.

    For example:

        jobsctl update 8f14e45f --output-max 1G
        jobsctl update nightly --timeout 3h

    Args:
        id: the job: its id, the start of one, or its name.
        json: print the job, as `inspect --json` does.
    """
    fields = given(changes)
    if not fields:
        raise Failure("say what to change: --output-max SIZE or --timeout DURATION", USAGE)
    with checking_usage():
        methods.Update(id=id, **fields)
    job = ask(endpoint, lambda client: client.update(id, **fields))
    output.tell_job(job, "updated", json=json)
