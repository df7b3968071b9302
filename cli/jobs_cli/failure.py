"""How a verb ends when it cannot do what was asked: one sentence and an exit status."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from jobs_proto.errors import JobsError

REFUSED: Final = 1
"""The supervisor said no, or something here is not as it must be."""

USAGE: Final = 2
"""What was typed is wrong in itself, whether we found that or the supervisor."""

OURS: Final = 125
"""We failed, where any other status would be taken for the job's own."""

INTERRUPTED: Final = 130
STDOUT_CLOSED: Final = 141
"""As a shell reports a program that SIGPIPE ended."""


class Failure(Exception):  # noqa: N818  it is how a verb ends, not a fault to be handled
    """The verb ends here.

    Args:
        message: a sentence for the user; the prefix `jobsctl: ` is put before it.
        status: the exit status.
    """

    def __init__(self, message: str, status: int = REFUSED) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class StdoutClosed(Exception):  # noqa: N818  not an error: `| head` has seen enough
    """Nobody reads our standard output any more."""


def of_error(error: JobsError, ours: int) -> Failure:
    """Make the failure that an error of the client or the supervisor is.

    Args:
        error: what was answered.
        ours: the status for what is nobody's request's fault: `unavailable`, `internal`.
    """
    if error.code == "invalid_argument":
        return Failure(error.message, USAGE)
    return Failure(error.message, ours if error.code in ("unavailable", "internal") else REFUSED)


@contextmanager
def checking_usage() -> Iterator[None]:
    """Let a `ValueError` within be a fault of what was typed.

    The classes of `jobs_proto` check what they are made of: making one here finds what the
    supervisor would refuse, without asking it.
    """
    try:
        yield
    except ValueError as error:
        raise Failure(str(error), USAGE) from None
