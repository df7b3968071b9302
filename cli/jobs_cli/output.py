"""What we write: data to standard output, talk to standard error.

Both are written to the descriptor, not through `print`: a job's output is bytes, and what is
written here is out when the call returns, so nothing can go wrong later, while Python ends.
"""

import json
import os
import select
import sys
from collections.abc import Iterable
from contextlib import suppress
from fcntl import F_GETFL, fcntl
from stat import S_ISFIFO
from typing import Final

from jobs_cli.escape import escape
from jobs_cli.failure import OURS, Failure, StdoutClosed
from jobs_proto.job import Job

STDOUT: Final = 1
STDERR: Final = 2


def occupy() -> None:
    """Have nothing else open where standard input, output or error should be, and are closed.

    A socket that gets the number 1 would be sent a job's output. What is written to a closed
    standard output still fails, and is told; what is said on a closed standard error is lost.
    """
    for fd, flags in ((0, os.O_WRONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free: this one


def write_bytes(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`, waiting for a slow reader as long as it takes.

    Raises:
        StdoutClosed: the reader has gone.
        Failure: nothing can be written there, a full disk for one.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            _wait_writable(fd)
        except BrokenPipeError:
            raise StdoutClosed from None
        except OSError as error:
            name = "standard output" if fd == STDOUT else "standard error"
            raise Failure(f"cannot write to {name}: {error.strerror}", OURS) from None


def _wait_writable(fd: int) -> None:
    """Wait for room; whoever shares a terminal or pipe with us may have made it non-blocking."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


def is_pipe(fd: int) -> bool:
    """Whether this is the writing end of a pipe."""
    try:
        return S_ISFIFO(os.fstat(fd).st_mode) and fcntl(fd, F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    except OSError:
        return False  # it is closed


def write(text: str) -> None:
    """Write text to standard output; bytes that were no UTF-8 come out as they came in."""
    write_bytes(STDOUT, text.encode(errors="surrogateescape"))


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    write("".join(f"{line}\n" for line in lines))


def write_json(value: object) -> None:
    """Write a value as JSON, in ASCII: nothing in it can drive a terminal."""
    write(json.dumps(value, indent=2) + "\n")


def write_job(job: Job) -> None:
    """Write a job as the JSON object that `inspect --json` prints."""
    write_json(_as_map(job))


def tell_job(job: Job, what: str, *, json: bool) -> None:
    """Say what was done to a job, or write it as `write_job` does."""
    if json:
        write_job(job)
    else:
        say(f"job {job.id}: {what}")


def write_jobs(jobs: Iterable[Job]) -> None:
    """Write jobs as a JSON array of such objects."""
    write_json([_as_map(job) for job in jobs])


def _as_map(job: Job) -> dict[str, object]:
    from jobs_proto.wire import unstructure

    return unstructure(job)


def say(message: str) -> None:
    """Tell the user something, on one line of standard error; never fails."""
    with suppress(StdoutClosed, Failure):
        write_bytes(STDERR, f"jobsctl: {escape(message)}\n".encode())


def stdout_is_terminal() -> bool:
    """Whether a person is looking, who may like colours and columns."""
    return sys.stdout is not None and sys.stdout.isatty()
