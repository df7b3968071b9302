"""`jobsctl kill`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from jobs_cli import output
from jobs_cli.duration import Duration
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.failure import INTERRUPTED, REFUSED, USAGE, Failure, checking_usage
from jobs_cli.options import Id
from jobs_cli.session import ask
from jobs_cli.verdict import condition
from jobs_proto import methods
from jobs_proto.errors import JobsError
from jobs_proto.job import Job

if TYPE_CHECKING:
    from jobs_rpc import Client


def kill(
    *id: Id,
    signal: Annotated[str, Parameter(metavar="SIGNAL")] = "TERM",
    grace: Duration = 10.0,
    all: bool = False,
    no_wait: bool = False,
    json: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> int:
    """End jobs, with every process of each; print the ids of the dead.

    The leader gets the signal; what is left after the grace period, however it hides, is killed by
    the kernel. The verb returns when each job is proved dead. It is also called stop. Killing a job
    that has ended is no error. If one of several cannot be killed, the others are all the same, and
    the exit status is 1.

    For example:

        jobsctl kill 8f14e45f
        jobsctl kill nightly import --signal INT --grace 1m
        jobsctl kill --all --grace 0

    Args:
        id: the jobs: their ids, starts of them, or names.
        signal: what the leader gets first: a signal's name or number; default: TERM.
        grace: how long the job may take to end by itself; default: 10s.
        all: all of your own jobs that have not ended.
        no_wait: return when the kill is under way; print the ids of those for which it is.
        json: print the jobs as a JSON array, and not just their ids.
    """
    if bool(id) == all:
        raise Failure("name the jobs to kill, or say --all, and not both", USAGE)
    with checking_usage():
        order = methods.Kill(id="", signal=signal, grace_s=grace)
    killing = Killing(order, wait=not no_wait)
    try:
        jobs = ask(endpoint, lambda client: killing.kill(client, id))
    except KeyboardInterrupt:
        why = "no longer waiting; the kills that are under way go on, see jobsctl list"
        raise Failure(why, INTERRUPTED) from None
    if json:
        output.write_jobs(jobs)
    else:
        output.write_lines(job.id for job in jobs)
    return REFUSED if killing.failed else 0


class Killing:
    """The kill of several jobs, of which one's failure does not stop the others.

    Args:
        order: how to kill; its id is each job's in turn.
        wait: until each is dead.

    Attributes:
        failed: at least one was refused.
    """

    def __init__(self, order: methods.Kill, *, wait: bool) -> None:
        self._order: Final = order
        self._wait: Final = wait
        self.failed = False

    async def kill(self, client: "Client", ids: Sequence[str]) -> list[Job]:
        """Kill these jobs, or without any all of one's own; give those that are dead.

        All are asked for before the first is waited for: their grace periods pass together.
        """
        if not ids:
            own = await client.list(limit=methods.MAX_LIST, own=True)
            ids = [job.id for job in own]
        dying = await self._each(ids, lambda ident: self._begin(client, ident))
        if not self._wait:
            return dying
        return await self._each([job.id for job in dying], lambda ident: self._end(client, ident))

    async def _each(self, ids: Sequence[str], step: Callable[[str], Awaitable[Job]]) -> list[Job]:
        """Take a step for each job; say which ones were refused, and go on."""
        done = []
        for ident in ids:
            try:
                done.append(await step(ident))
            except JobsError as error:
                if error.code in ("unavailable", "internal"):
                    raise  # it would be the same for the others
                output.say(f"{ident}: {error.message}")
                self.failed = True
        return done

    async def _begin(self, client: "Client", ident: str) -> Job:
        order = self._order
        return await client.kill(ident, signal=order.signal, grace_s=order.grace_s)

    async def _end(self, client: "Client", ident: str) -> Job:
        job = await client.wait(ident)
        output.say(f"job {job.id} is dead ({condition(job)})")
        return job
