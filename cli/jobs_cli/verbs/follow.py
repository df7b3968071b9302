"""`jobsctl follow` and `jobsctl logs`: a job's output, live or as far as it is."""

from typing import Annotated

from cyclopts import Parameter

from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.follower import follow_job, wanted_output
from jobs_cli.options import Id

_FROM = Parameter(name="--from", metavar="OFFSET")


def follow(
    id: Id,
    /,
    *,
    start: Annotated[int, _FROM] = 0,
    stdout: bool = False,
    stderr: bool = False,
    timestamps: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> int:
    """Show a job's output until it ends, then exit as it did.

    It starts at the first byte, whenever you come, and goes on live.

    What the job wrote to its standard output comes out on ours, what it wrote to its standard
    error on ours, byte for byte. A lost connection is made again, and goes on where it was.
    Ctrl-C stops following; the job goes on.

    Exit status: the job's own; 128+n if signal n ended it; 124 timed out; 126 could not be
    executed; 127 not found; 125 we failed; 130 Ctrl-C.

    For example:

        jobsctl follow 8f14e45f
        jobsctl follow nightly --stderr --timestamps
        jobsctl follow 8f14e45f --from 1048576 >> rest-of-it

    Args:
        id: the job: its id, the start of one, or its name.
        start: the first byte wanted, counted from the start of the job's output.
        stdout: only its standard output.
        stderr: only its standard error.
        timestamps: put before each line when it was written (UTC).
    """
    wanted = wanted_output(id, start=start, stdout=stdout, stderr=stderr, timestamps=timestamps)
    return follow_job(endpoint, wanted)


def logs(
    id: Id,
    /,
    *,
    start: Annotated[int, _FROM] = 0,
    stdout: bool = False,
    stderr: bool = False,
    timestamps: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> int:
    """Show a job's output as far as it is, without waiting for more.

    For example:

        jobsctl logs 8f14e45f | tail

    Args:
        id: the job: its id, the start of one, or its name.
        start: the first byte wanted, counted from the start of the job's output.
        stdout: only its standard output.
        stderr: only its standard error.
        timestamps: put before each line when it was written (UTC).
    """
    wanted = wanted_output(
        id, start=start, stdout=stdout, stderr=stderr, timestamps=timestamps, wait=False
    )
    return follow_job(endpoint, wanted)
