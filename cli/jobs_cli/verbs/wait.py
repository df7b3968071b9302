"""`jobsctl wait`."""

from time import monotonic
from typing import TYPE_CHECKING

from jobs_cli import output
from jobs_cli.duration import Duration, exact_span
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.failure import INTERRUPTED, OURS, USAGE, Failure
from jobs_cli.options import Id
from jobs_cli.session import ask
from jobs_cli.verdict import verdict
from jobs_proto.job import Job, exit_status
from jobs_proto.phases import Phase

if TYPE_CHECKING:
    from jobs_rpc import Client


def wait(
    *id: Id,
    timeout: Duration | None = None,
    endpoint: Endpoint = DEFAULT,
) -> int:
    """Wait until jobs have ended, and exit as they did.

    Exit status: that of the job; of several, the first in the order given here that is not 0.
    128+n if signal n ended it; 124 the job timed out; 126 could not be executed; 127 not found;
    125 we failed, or --timeout passed first. Nothing is printed; `inspect --json` has the rest.

    For example:

        jobsctl wait 8f14e45f && echo done
        jobsctl wait $(jobsctl run sleep 5) $(jobsctl run sleep 6) --timeout 10s

    Args:
        id: the jobs: their ids, starts of them, or names.
        timeout: how long to wait for all of them together; default: until they end.
    """
    if not id:
        raise Failure("name the jobs to wait for", USAGE)
    try:
        jobs = ask(endpoint, lambda client: _wait_all(client, id, timeout), ours=OURS)
    except KeyboardInterrupt:
        raise Failure("no longer waiting; nothing was done to the jobs", INTERRUPTED) from None
    for job in jobs:
        if sentence := verdict(job):
            output.say(f"{job.short_id}: {sentence}")
    return next(filter(None, map(exit_status, jobs)), 0)


async def _wait_all(client: "Client", ids: tuple[str, ...], timeout_s: float | None) -> list[Job]:
    """Wait for one after the other: the last to end decides when all have.

    Raises:
        Failure: the time is over.
    """
    deadline = None if timeout_s is None else monotonic() + timeout_s
    ended = []
    for ident in ids:
        left = None if deadline is None else max(deadline - monotonic(), 0.0)
        job = await client.wait(ident, left)
        if job.phase is not Phase.EXITED:
            assert timeout_s is not None
            raise Failure(f"job {job.id} has not ended within {exact_span(timeout_s)}", OURS)
        ended.append(job)
    return ended
